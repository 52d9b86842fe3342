"""Read corrected masks: PNG files, or an annotation tool's COCO export."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dualteacher.core.labels import IGNORE
from dualteacher.data.formats import images
from dualteacher.labelling import coco
from dualteacher.labelling.suggestion import Suggestion, read_json
from dualteacher.settings import Folder
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError

Reader = Callable[[dict[str, str]], np.ndarray | None]  # a row of suggested.csv → class indices (H, W), if any


def png_reader(folder: Path, wanted: Folder) -> Reader:
    """Read PNG masks of class indices or class colours; black and white, unless a class has them, become 255."""
    colors = {images.pack_color([0, 0, 0]): IGNORE, images.pack_color([255, 255, 255]): IGNORE}
    colors |= {images.pack_color(entry.color): index for index, entry in enumerate(wanted.classes)}

    def read(row: dict[str, str]) -> np.ndarray | None:
        path = folder / f"{row['image_id']}.png"
        if not path.exists():
            return None
        data = path.read_bytes()
        try:
            try:
                return images.read_values(data, color=False).values
            except images.Colored:
                values = images.read_values(data, color=True).values
        except images.Unreadable as error:
            raise UserError(f"{path}: cannot be used: {error}") from None
        known, places = np.unique(values, return_inverse=True)
        if strange := [value for value in known.tolist() if value not in colors]:
            shown = [strange[0] >> 16, strange[0] >> 8 & 255, strange[0] & 255]
            raise UserError(f"{path}: {len(strange)} colours belong to no class, for example {shown}")
        return np.array([colors[value] for value in known.tolist()])[places].reshape(values.shape)

    return read


def coco_reader(path: Path, suggestion: Suggestion) -> Reader:
    """Read masks from a COCO file; an image without shapes has no mask.

    Rectangles (`bbox` without `segmentation`) do not count as shapes.
    """
    content = read_json(path, "the annotation tool's COCO export")
    try:
        index_of = {entry["id"]: suggestion.classes.index(entry["name"]) for entry in content["categories"]}
        drawn: dict[int, list[dict[str, Any]]] = {entry["id"]: [] for entry in content["images"]}
        for annotation in content["annotations"]:
            if annotation.get("segmentation"):
                drawn[annotation["image_id"]].append(annotation)
        named = {str(entry["file_name"]): entry for entry in content["images"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a COCO file with this dataset's classes ({error})") from None
    found = match([row["image"] for row in suggestion.rows], list(named))
    known = set(found.values())
    if lost := [name for name in named if name not in known and drawn[named[name]["id"]]]:
        logger.warning("%s: %d annotated images were not suggested, for example %s", path, len(lost), lost[0])

    def read(row: dict[str, str]) -> np.ndarray | None:
        entry = named[found[row["image"]]] if row["image"] in found else None
        if entry is None or not drawn[entry["id"]]:
            return None
        try:
            return coco.rasterise(drawn[entry["id"]], (entry["height"], entry["width"]), index_of)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: {entry['file_name']}: cannot be used: {error}") from None

    return read


def match(names: Sequence[str], listed: Sequence[str]) -> dict[str, str]:
    """Map suggested images to the file names in an export: tools drop, replace or prepend folders and prefixes.

    Rules are tried from strict to loose; a rule counts only where it gives exactly one match. Ambiguous images are
    left out.
    """
    found: dict[str, str] = {}
    upload = re.compile(r"^[0-9a-f]{8}-(?=.)")  # Label Studio's prefix for uploaded files
    rules: list[Callable[[str, str], bool]] = [
        lambda name, other: other == name,
        lambda name, other: other.endswith(f"/{name}"),
        lambda name, other: PurePosixPath(other).name == PurePosixPath(name).name,
        lambda name, other: upload.sub("", PurePosixPath(other).name) == PurePosixPath(name).name.replace(" ", "_"),
    ]
    for same in rules:
        taken = set(found.values())
        left = [other for other in listed if other not in taken]
        fits = {name: [other for other in left if same(name, other)] for name in names if name not in found}
        times = Counter(other for others in fits.values() for other in others)
        found |= {name: others[0] for name, others in fits.items() if len(others) == 1 and times[others[0]] == 1}
    return found
