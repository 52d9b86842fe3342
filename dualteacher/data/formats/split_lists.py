"""Text files that list the images of a split, one name per line: Pascal VOC's ImageSets, or train.txt and val.txt."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dualteacher.data.formats import folder_files
from dualteacher.data.formats.file_kinds import SUFFIXES
from dualteacher.data.formats.folder_roles import SPLITS
from dualteacher.system.errors import UserError

VOC, VOC_MASKS = "ImageSets", "Segmentation"  # the other folders in ImageSets list images without masks too


@dataclass(frozen=True)
class SplitLists:
    """Lists found below a folder, relative to it."""

    train: str | None
    validation: str  # the test list if there is no other
    test: str | None


def find(root: Path, images: Sequence[str]) -> SplitLists | None:
    """The lists that name most of `images` (relative paths of those with masks); None without one for validation."""
    found: dict[str, list[str]] = {}
    for name in folder_files.with_suffix(root, ".txt"):
        path = PurePosixPath(name)
        split = next((split for split, words in SPLITS.items() if path.stem.lower() in words), None)
        if split is None or (VOC in path.parts and path.parent.name != VOC_MASKS):
            continue
        if len(resolve(root / name, images)[0]):
            found.setdefault(split, []).append(name)
    only = {split: names[0] for split, names in found.items() if len(names) == 1}
    train, validation, test = (only.get(split) for split in ("train", "validation", "test"))
    if validation is None:
        validation, test = test, None
    if validation is None or not 0 < len(resolve(root / validation, images)[0]) < len(images):
        return None
    return SplitLists(train, validation, test)


def resolve(path: Path, images: Sequence[str]) -> tuple[set[str], list[str]]:
    """(those of `images` that the file names, names that fit no image or several).

    A name may lack the extension, the first folders, or have others. Further words in a line (a mask) are skipped.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a list of images: {error}") from None
    by_end: dict[str, set[str]] = {}
    for image in images:
        for end in _ends(_key(image)):
            by_end.setdefault(end, set()).add(image)
    named: set[str] = set()
    unknown: list[str] = []
    for line in filter(None, map(str.strip, lines)):
        fits = _fitting(line, by_end) or _fitting(line.split()[0], by_end)
        if fits is None:
            unknown.append(line)
        else:
            named.add(fits)
    return named, unknown


def _fitting(name: str, by_end: dict[str, set[str]]) -> str | None:
    """The image that shares most of the path's end, if it is the only one."""
    fits = next((by_end[end] for end in _ends(_key(name)) if end in by_end), set())
    return next(iter(fits)) if len(fits) == 1 else None


def _key(name: str) -> str:
    path = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))
    return str(path.with_suffix("") if path.suffix.lower() in SUFFIXES else path)


def _ends(key: str) -> list[str]:
    """a/b/c, b/c, c."""
    parts = [part for part in key.split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[start:]) for start in range(len(parts))]
