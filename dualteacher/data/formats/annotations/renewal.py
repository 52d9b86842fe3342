"""Rasterise annotations anew when they have changed since `init`, with the classes that `init` recorded."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from dualteacher import settings
from dualteacher.data.formats import folder_files
from dualteacher.data.formats.annotations import importer, recognise, record
from dualteacher.system.errors import UserError


def renew(options: settings.Folder) -> str | None:
    """Bring the masks in the user's folder up to date; return what was done, None if nothing was to do.

    Edited masks are kept. UserError, with nothing written, for a class that `init` has not seen.
    """
    root, masks = Path(options.folder), PurePosixPath(options.masks).parts[0]
    changed = list(record.outdated(root, options.masks))
    if not changed:
        return None
    names = folder_files.image_files(root)
    found = recognise.read(root, names)
    if found is None:
        return f"{root / changed[0]}: the annotations are gone; {masks} stays as it is"
    before = json.loads((root / masks / folder_files.RASTERISED).read_text(encoding="utf-8"))
    values: dict[str, int] = before["classes"] | {importer.IGNORED: importer.IGNORE_VALUE}
    values |= {label: 0 for label in found.labels if label.lower() in importer.BACKGROUND}
    used = {shape.label for entry in found.images for shape in entry.shapes}
    if unknown := sorted(used - values.keys()):
        raise UserError(
            f"{root}: {changed[0]} or another annotation file has the class {unknown[0]}, which is not among the"
            " dataset's; run `init` again"
        )
    matched, _ = importer.matched_images(root, found, names)
    shaped = {name: entry for name, entry in matched.items() if entry.shapes}
    drawn = importer.draw(root, shaped, values, found.smaller_on_top)
    covered = 0 not in before["classes"].values()
    drawn += importer.background_only(root, found, matched, values, covered)[0]
    pngs = {str(PurePosixPath(item.image).with_suffix(".png")): item.png for item in drawn}
    classes = [{"name": name, "value": value} for name, value in before["classes"].items()]
    kept = record.write(root, masks, pngs, importer.provenance(root, found, drawn, classes))
    said = f"{root / changed[0]}: changed, so {masks} was made anew ({len(pngs)} masks)"
    return said + (f"; {kept} edited ones kept" if kept else "")
