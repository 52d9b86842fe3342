"""Read corrected masks: PNG files, or an annotation tool's COCO export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dualteacher.core.labels import IGNORE
from dualteacher.data.formats import folder_files, images, mask_files, palettes
from dualteacher.data.formats.annotations.matching import match
from dualteacher.labelling import coco
from dualteacher.labelling.suggestion import Suggestion, read_json, suggested_palette
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError

Reader = Callable[[dict[str, str]], np.ndarray | None]  # a row of suggested.csv → class indices (H, W), if any


def png_reader(folder: Path, suggestion: Suggestion) -> Reader:
    """Read PNG masks of class indices or class colours; black and white, unless a class has them, become 255.

    An editor may have rebuilt a palette, renumbering its indices: then the colours count.
    """
    palette = suggested_palette(suggestion.colors)
    names = [f"{row['image_id']}.png" for row in suggestion.rows]
    if lost := sorted({*folder_files.files_below(folder, folder)} - {*names}):
        logger.warning("%s: %d masks ignored, as no suggested image has their name: %s%s",
                       folder, len(lost), ", ".join(lost[:3]), ", …" if len(lost) > 3 else "")  # fmt: skip

    def read(row: dict[str, str]) -> np.ndarray | None:
        path = folder / f"{row['image_id']}.png"
        if not path.exists():
            return None
        data = path.read_bytes()
        try:
            try:
                stored = mask_files.read_values(data, color=False)
                if stored.palette is None or _holds_indices(stored.values, stored.palette, palette):
                    return stored.values
            except mask_files.Colored:
                pass
            return _by_color(mask_files.read_values(data, color=True).values, suggestion.colors)
        except images.Unreadable as error:
            raise UserError(f"{path}: cannot be used: {error}") from None

    return read


def _holds_indices(values: np.ndarray, own: tuple[palettes.Color, ...], suggested: np.ndarray) -> bool:
    """Whether the indices are classes: the palette is the suggested mask's, or a grey ramp, which shows no colours."""
    used = palettes.used(values, own)
    if all(tuple(suggested[min(index, IGNORE)].tolist()) == color for index, color in used.items()):
        return True
    return len(own) == 256 and all(color == (index, index, index) for index, color in enumerate(own))


def _by_color(values: np.ndarray, colors: Sequence[Sequence[int]]) -> np.ndarray:
    """Packed colours (H, W) → class indices; Unreadable if one is of no class, or of several."""
    packed = [mask_files.pack_color(list(color)) for color in colors]
    index_of = {mask_files.pack_color([0, 0, 0]): IGNORE, mask_files.pack_color([255, 255, 255]): IGNORE}
    index_of |= {color: index for index, color in enumerate(packed)}
    known, places = np.unique(values, return_inverse=True)
    strange = [value for value in known.tolist() if value not in index_of]
    shared = [value for value in known.tolist() if packed.count(value) > 1]
    for found, problem in ((strange, "belong to no class"), (shared, "belong to several classes")):
        if found:
            example = [found[0] >> 16, found[0] >> 8 & 255, found[0] & 255]
            raise images.Unreadable(f"{len(found)} colours {problem}, for example {example}; keep the mask's palette")
    return np.array([index_of[value] for value in known.tolist()])[places].reshape(values.shape)


def coco_reader(path: Path, suggestion: Suggestion) -> Reader:
    """Read masks from a COCO file; an image without shapes has no mask.

    Rectangles (`bbox` without `segmentation`) do not count as shapes. Categories that are no classes may be listed (as
    Roboflow does), but not used.
    """
    content = read_json(path, "the annotation tool's COCO export")
    try:
        names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        drawn: dict[str, list[dict[str, Any]]] = {str(entry["id"]): [] for entry in content["images"]}
        named = {str(entry["file_name"]): entry for entry in content["images"]}
        for annotation in content["annotations"]:
            if annotation.get("segmentation"):
                drawn[str(annotation["image_id"])].append(annotation)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a COCO file, or one with gaps ({type(error).__name__}: {error})") from None
    index_of = {key: suggestion.classes.index(name) for key, name in names.items() if name in suggestion.classes}
    if not index_of:
        listed = ", ".join(names.values())
        raise UserError(f"{path}: no category ({listed}) is a class of this dataset: {', '.join(suggestion.classes)}")
    found = match([row["image"] for row in suggestion.rows], list(named))
    known = set(found.values())
    if lost := [name for name in named if name not in known and drawn[str(named[name]["id"])]]:
        logger.warning("%s: %d annotated images were not suggested, for example %s", path, len(lost), lost[0])

    def read(row: dict[str, str]) -> np.ndarray | None:
        entry = named[found[row["image"]]] if row["image"] in found else None
        if entry is None or not (shapes := drawn[str(entry["id"])]):
            return None
        try:
            if strange := [shape for shape in shapes if shape["category_id"] not in index_of]:
                name = names.get(strange[0]["category_id"], f"with id {strange[0]['category_id']}")
                raise ValueError(f"{len(strange)} shapes are of category {name}, which is no class of this dataset")
            return coco.rasterise(shapes, (entry["height"], entry["width"]), index_of)
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: {entry['file_name']}: cannot be used: no {error}") from None
        except ValueError as error:
            raise UserError(f"{path}: {entry['file_name']}: cannot be used: {error}") from None

    return read
