"""Place a caller's images and masks in a project's folder, in the layout that `init` reads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from dualteacher.api.model import Picture, pixels_of
from dualteacher.data.formats import file_kinds, folder_files
from dualteacher.system.errors import UserError

Folder = str | os.PathLike[str]
Pictures = Folder | Sequence[Picture]
Masks = Folder | Sequence[Picture | None]
Classes = Sequence[str] | Mapping[str, Any]
NAMES = ("classes.txt", "classes.json")


def place(
    root: Path, images: Pictures, masks: Masks | None, unlabelled: Pictures | None, classes: Classes | None
) -> None:
    """Fill `root`, which is replaced: links to files, PNGs of arrays. UserError for anything else.

    Without `masks`, `images` is a folder in a layout that `init` knows, or a sequence of (image, mask) pairs, such as a
    torch Dataset.
    """
    if root.exists():
        shutil.rmtree(root)
    if masks is None and not _is_folder(images):
        pairs = [cast(Sequence[Any], images)[number] for number in range(len(cast(Sequence[Any], images)))]
        if not all(isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2 for pair in pairs):
            raise UserError("images: without masks=, give a folder or a sequence of (image, mask) pairs")
        images, masks = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if masks is None:
        _link_folder(cast(Folder, images), root, "images")
    elif _is_folder(images) and _is_folder(masks):
        _link_folder(cast(Folder, images), root / "images", "images")
        _link_folder(cast(Folder, masks), root / "masks", "masks")
    elif _is_folder(images) or _is_folder(masks):
        raise UserError("images and masks: give two folders or two lists")
    else:
        _write_pairs(root, cast(Sequence[Picture], images), cast(Sequence[Picture | None], masks))
    if unlabelled is not None and _is_folder(unlabelled):
        _link_folder(cast(Folder, unlabelled), root / "unlabelled", "unlabelled")
    elif unlabelled is not None:
        for number, picture in enumerate(cast(Sequence[Picture], unlabelled)):
            _write(picture, root / "unlabelled" / f"{number:06d}", f"unlabelled[{number}]", is_mask=False)
    _name_classes(root, images, classes)


def _is_folder(given: object) -> bool:
    return isinstance(given, str | os.PathLike)


def _link_folder(given: Folder, target: Path, what: str) -> None:
    """Link each image file below a folder; links to folders are followed, hidden files left out."""
    folder = Path(given).absolute()
    if not folder.is_dir():
        raise UserError(f"{what} = {given}: no such folder")
    names = folder_files.image_files(folder)
    if not names:
        raise UserError(f"{what} = {given}: holds no image file ({', '.join(sorted(file_kinds.SUFFIXES))})")
    for name in names:
        _link(folder / name, target / name)


def _write_pairs(root: Path, images: Sequence[Picture], masks: Sequence[Picture | None]) -> None:
    if len(images) != len(masks):
        raise UserError(f"{len(images)} images, but {len(masks)} masks; give None for an image without a mask")
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        _write(image, root / "images" / f"{number:06d}", f"images[{number}]", is_mask=False)
        if mask is not None:
            _write(mask, root / "masks" / f"{number:06d}", f"masks[{number}]", is_mask=True)


def _write(picture: Picture, stem: Path, name: str, is_mask: bool) -> None:
    """Link a file, or write pixels as PNG."""
    if isinstance(picture, str | os.PathLike):
        file = Path(picture).absolute()
        if not file.is_file():
            raise UserError(f"{name} = {picture}: no such file")
        _link(file, stem.with_suffix(file.suffix))
        return
    pixels = _mask(picture, name) if is_mask else pixels_of(picture, name)
    stem.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(stem.with_suffix(".png"), compress_level=1)


def _mask(mask: np.ndarray | Image.Image, name: str) -> np.ndarray:
    """Class indices (H, W) uint8 or uint16, or colours (H, W, 3) uint8."""
    values = np.asarray(mask)
    colours = values.ndim == 3 and values.shape[2] == 3 and values.dtype == np.uint8
    if not (colours or (values.ndim == 2 and values.dtype.kind in "bui")) or values.size == 0:
        raise UserError(f"{name}: an array of {values.dtype} {values.shape}; expected (height, width) whole numbers")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 1 << 16:
        raise UserError(f"{name}: values from {low} to {high}; a mask holds class indices from 0 to 65535")
    return values.astype(np.uint8 if high < 256 else np.uint16)


def _link(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(file)
    except OSError:  # a file system or a Windows account without links
        shutil.copy2(file, target)


def _name_classes(root: Path, images: Pictures, classes: Classes | None) -> None:
    """Write the classes' names, or copy the list that lies in or beside the folder of images."""
    if isinstance(classes, Mapping):
        (root / "classes.json").write_text(json.dumps(dict(classes)), encoding="utf-8")
    elif classes is not None:
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    elif _is_folder(images):
        folder = Path(cast(Folder, images)).absolute()
        for place in (folder, folder.parent):
            for name in NAMES:
                if (place / name).is_file() and not any((root / other).exists() for other in NAMES):
                    shutil.copyfile(place / name, root / name)
