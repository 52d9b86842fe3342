"""Turn annotation files into index masks inside the dataset's folder, for `init`.

Masks go to masks-from-FORMAT/, at the images' own relative paths, with a record of where they come from. Masks edited
since, or added by `accept`, are kept.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dualteacher.data.class_table import voc_color
from dualteacher.data.formats import detect_layout, folder_files, images
from dualteacher.data.formats.annotations import rasterise, recognise, record
from dualteacher.data.formats.annotations.matching import match
from dualteacher.data.formats.annotations.shapes import Annotated, Annotations, Shape, Size, Wrong
from dualteacher.data.formats.detect_classes import GuessedClasses
from dualteacher.system import console, files, parallel
from dualteacher.system.errors import UserError

BACKGROUND = {"background", "_background_", "__background__"}
IGNORED = "__ignore__"  # labelme's name for pixels without a class
IGNORE_VALUE = 255
FULL = 0.01  # with fewer pixels outside all shapes than this share, the classes cover everything: no background


class Imported(NamedTuple):
    """Where the masks are, their classes, and what was understood."""

    places: detect_layout.Places
    classes: GuessedClasses
    told: list[str]
    sources: list[str]  # the annotation files


@dataclass(frozen=True)
class Drawn:
    """A rasterised image."""

    image: str
    png: bytes
    counts: Counter[int]  # pixels by value
    problem: str = ""


def take(root: Path) -> Imported | None:
    """Rasterise the annotations below `root`; None if there are none, UserError, with nothing written, if unusable."""
    names = folder_files.image_files(root)
    found = recognise.read(root, names)
    if found is None:
        return None
    matched, told = matched_images(root, found, names)
    values = _values(root, found)
    shaped = {name: entry for name, entry in matched.items() if entry.shapes}
    drawn = draw(root, shaped, values, found.smaller_on_top)
    counts: Counter[int] = sum((item.counts for item in drawn), Counter())
    outside = counts[0] / counts.total()
    used = sorted({value for value in counts if 0 < value < IGNORE_VALUE})
    covered = outside < FULL and len(used) > 1 and 0 not in values.values()
    empty, said = background_only(root, found, matched, values, covered)
    drawn += empty
    told += said
    masks = f"{folder_files.RASTERISED_FOLDER}{found.key}"
    places = detect_layout.beside(names, {item.image for item in drawn}, masks)
    classes = _classes(found, values, used, covered)
    told = [_summary(found, shaped, masks), *_say_classes(found, values, used, covered, outside), *told]
    pngs = {str(PurePosixPath(item.image).with_suffix(".png")): item.png for item in drawn}
    kept = record.write(root, masks, pngs, provenance(root, found, drawn, classes.classes))
    if kept:
        told.append(f"edited masks in {masks}: {kept}, kept; delete a mask to have it made anew")
    return Imported(places, classes, told, found.sources)


def background_only(
    root: Path, found: Annotations, matched: Mapping[str, Annotated], values: Mapping[str, int], covered: bool
) -> tuple[list[Drawn], list[str]]:
    """(masks of the images that are listed without shapes, a remark), if these are no images still to be annotated."""
    empty = {name: entry for name, entry in matched.items() if not entry.shapes and entry.empty_is_background}
    if not empty:
        return [], []
    if not covered and 2 * len(empty) <= len(empty) + sum(bool(entry.shapes) for entry in matched.values()):
        return draw(root, empty, values, found.smaller_on_top), [
            f"images listed without shapes: {len(empty)}, taken as background only, for example {next(iter(empty))};"
            " if they are not annotated yet, take them out of the file"
        ]
    reason = "there is no background" if covered else "they outnumber those with shapes"
    return [], [f"images listed without shapes: {len(empty)}, taken as not annotated, since {reason}"]


def matched_images(root: Path, found: Annotations, names: Sequence[str]) -> tuple[dict[str, Annotated], list[str]]:
    """(annotations by image, remarks). Names are compared in Unicode's form NFC: macOS stores others."""
    spelled = {unicodedata.normalize("NFC", name): name for name in names}
    found.images = [replace(entry, name=unicodedata.normalize("NFC", entry.name)) for entry in found.images]
    matched, lost = _by_place(root, found, [*spelled])
    once: dict[str, Annotated] = {}
    for entry in sorted(lost, key=lambda entry: not entry.shapes):
        if once.setdefault(entry.name, entry) is not entry and entry.shapes:
            raise UserError(_twice(root, entry.name, once[entry.name], entry))
    pairs = match([name for name in spelled if name not in matched], [*once])
    matched = {spelled[name]: entry for name, entry in matched.items()}
    matched |= {spelled[name]: once[listed] for name, listed in pairs.items()}
    unknown = sorted({name for name, entry in once.items() if entry.shapes} - {*pairs.values()})
    if not any(entry.shapes for entry in matched.values()):
        raise UserError(f"{root}: {_nothing(found, unknown)}")
    told = [f"not taken: {what} ({number})" for what, number in found.left_out.items()]
    if found.rectangles:
        told.append(f"rectangles taken as areas: {found.rectangles}; delete them if they only bound objects")
    if unknown:
        told.append(f"annotated, but not in the folder: {len(unknown)} images, for example {unknown[0]}")
    return matched, told


def _by_place(root: Path, found: Annotations, names: Sequence[str]) -> tuple[dict[str, Annotated], list[Annotated]]:
    """(annotations by image, the rest): images at their names relative to the annotation file, or beside it.

    The images of annotations/instances_val.json may also be in a folder `val`, if they are not unique otherwise.
    """
    known, stems = set(names), {str(PurePosixPath(name).with_suffix("")): name for name in names}
    by_source: dict[str, list[Annotated]] = {}
    for entry in found.images:
        by_source.setdefault(entry.source, []).append(entry)
    matched: dict[str, Annotated] = {}
    lost: list[Annotated] = []
    for source, entries in by_source.items():
        pairs: list[tuple[str, Annotated]] = []
        left: dict[str, Annotated] = {}
        for entry in entries:
            beside = os.path.normpath(PurePosixPath(source).parent / entry.name)
            if beside not in known and len(entries) == 1:
                beside = stems.get(str(PurePosixPath(source).with_suffix("")), "")
            if beside in known:
                pairs.append((beside, entry))
            elif left.setdefault(entry.name, entry) is not entry:
                raise UserError(_twice(root, entry.name, left[entry.name], entry))
        if len(left) > 1:
            words = set(re.split(r"[\W_]+", PurePosixPath(source).stem.lower()))
            near = [name for name in names if words.intersection(name.lower().split("/")[:-1])]
            pairs += [(name, left.pop(listed)) for name, listed in match(near, [*left]).items()]
        for name, entry in pairs:
            if name in matched:
                raise UserError(_twice(root, name, matched[name], entry))
            matched[name] = entry
        lost += left.values()
    return matched, lost


def _twice(root: Path, name: str, one: Annotated, other: Annotated) -> str:
    where = f"twice in {one.source}" if one.source == other.source else f"in {one.source} and in {other.source}"
    return f"{root}: {name} is annotated {where}; leave one, or put each file beside its images"


def _nothing(found: Annotations, unknown: Sequence[str]) -> str:
    where = f"{found.title} ({found.sources[0]})"
    if unknown:
        return f"{where}: none of the annotated images ({len(unknown)}, for example {unknown[0]}) is in the folder"
    if found.left_out:
        what, number = found.left_out.most_common(1)[0]
        return f"{where} holds no areas, only {what} ({number}); export polygons or masks"
    return f"{where} holds no shapes"


def _values(root: Path, found: Annotations) -> dict[str, int]:
    """Mask value of each label that a shape uses: from 1 in the file's order, 0 for a background."""
    used = {shape.label for entry in found.images for shape in entry.shapes}
    values = {label: 0 for label in used if label.lower() in BACKGROUND}
    values |= {label: IGNORE_VALUE for label in used if label == IGNORED}
    plain = [label for label in found.labels if label in used and label not in values]
    if len(plain) >= IGNORE_VALUE:
        raise UserError(f"{root}: {found.sources[0]} uses {len(plain)} classes; at most 254 are possible")
    return values | {label: number for number, label in enumerate(plain, start=1)}


def draw(root: Path, entries: Mapping[str, Annotated], values: Mapping[str, int], smaller: bool) -> list[Drawn]:
    jobs = (partial(_draw_one, root, name, entry, values, smaller) for name, entry in entries.items())
    drawn = list(console.progress(parallel.ordered(jobs), "rasterise", len(entries), "image"))
    if wrong := [item for item in drawn if item.problem]:
        more = f" (and {len(wrong) - 1} more images)" if len(wrong) > 1 else ""
        first = wrong[0]
        raise UserError(f"{root / entries[first.image].source}: {first.image}: {first.problem}{more}")
    return drawn


def _draw_one(root: Path, name: str, entry: Annotated, values: Mapping[str, int], smaller: bool) -> Drawn:
    try:
        upright, turned = _upright_size(root / name)
        size = entry.size or upright
        if size != upright and not (turned and size == upright[::-1]):  # or drawn on the picture as stored
            raise Wrong(f"annotated at {size[0]}×{size[1]} pixels, but the image has {upright[0]}×{upright[1]}")
        shapes = [_scaled(shape, size) for shape in entry.shapes] if entry.relative else entry.shapes
        mask = rasterise.paint(shapes, size, values, smaller)
    except (Wrong, images.Unreadable, OSError) as error:
        return Drawn(name, b"", Counter(), str(error))
    numbers = np.bincount(mask.ravel(), minlength=256)
    return Drawn(name, images.png(mask), Counter({int(value): int(numbers[value]) for value in numbers.nonzero()[0]}))


def _upright_size(path: Path) -> tuple[Size, bool]:
    """((H, W) after the EXIF orientation, from the header, whether that swaps height and width)."""
    height, width = images.size(path.read_bytes())
    try:
        with Image.open(path) as opened:
            turned = opened.getexif().get(images.ORIENTATION, 1) >= 5
    except (OSError, ValueError, TypeError, SyntaxError):
        turned = False
    return ((width, height) if turned else (height, width)), turned


def _scaled(shape: Shape, size: Size) -> Shape:
    return replace(shape, polygons=[[ring * [size[1], size[0]] for ring in rings] for rings in shape.polygons])


def _classes(found: Annotations, values: Mapping[str, int], used: Sequence[int], covered: bool) -> GuessedClasses:
    names = {value: label for label, value in values.items()}
    listed = [*([] if covered else [0]), *used]
    classes = [
        {
            "name": names.get(value, "background"),
            "color": found.colors.get(names.get(value, ""), list(voc_color(value))),
            "value": value,
        }
        for value in listed
    ]
    return GuessedClasses(classes, [0, IGNORE_VALUE] if covered else [IGNORE_VALUE])


def _summary(found: Annotations, shaped: Mapping[str, Annotated], masks: str) -> str:
    number = sum(len(entry.shapes) for entry in shaped.values())
    more = f" and {len(found.sources) - 1} more files" if len(found.sources) > 1 else ""
    return (
        f"annotations: {found.title} ({found.sources[0]}{more}), {number} shapes in {len(shaped)} images, rasterised"
        f" into {masks}; overlaps: {rasterise.OVERLAPS[found.smaller_on_top]}"
    )


def _say_classes(
    found: Annotations, values: Mapping[str, int], used: Sequence[int], covered: bool, outside: float
) -> list[str]:
    names = [label for label in found.labels if values.get(label) in used]
    rest = f"{outside:.1%} of the pixels outside all shapes"
    said = f"classes: {', '.join(names)}; {rest}: {'ignored' if covered else 'background'}"
    unused = [label for label in found.labels if label not in names and values.get(label) not in (0, IGNORE_VALUE)]
    return [said, *([f"categories without a pixel, left out: {', '.join(unused)}"] if unused else [])]


def provenance(
    root: Path, found: Annotations, drawn: Sequence[Drawn], classes: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "format": found.title,
        "rule": rasterise.RULE + rasterise.OVERLAPS[found.smaller_on_top],
        "sources": {name: files.sha256(root / name) for name in found.sources},
        "seen": recognise.candidates(root),
        "classes": {entry["name"]: entry["value"] for entry in classes},
        "images": len(drawn),
        "shapes": sum(len(entry.shapes) for entry in found.images),
        "left_out": dict(found.left_out),
    }
