"""List the image files below a user's folder, and the files that are not used."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from pathlib import Path

from dualteacher.data.formats import file_kinds
from dualteacher.data.formats.file_kinds import is_image, is_system_folder
from dualteacher.system.console import logger
from dualteacher.system.walk import BEHIND_LINKS, walk

OUTPUTS = {"done.jsonl", "suggest.json"}  # mark folders of outputs (prediction/record.py, labelling/suggestion.py)
RASTERISED_FOLDER, RASTERISED = "masks-from-", "rasterised.json"  # folder and record of annotations/importer.py


def image_files(root: Path) -> list[str]:
    """Sorted relative paths of all images and masks below `root`; see `files_below` for what is skipped."""
    return sorted(files_below(root, root))


def files_below(folder: Path, root: Path) -> Iterator[str]:
    """Paths, relative to `root`, of all image files below `folder`, links to folders included.

    Skips hidden and system folders, and what `predict`, `suggest` and `init` wrote below `folder`.
    """
    return (name for name in _all_files(folder, root) if is_image(name))


def with_suffix(root: Path, suffix: str) -> list[str]:
    """Sorted relative paths of the files of another kind below `root`; suffix: in lower case."""
    return sorted(name for name in _all_files(root, root) if Path(name).suffix.lower() == suffix and name[-1] != "/")


def unused(root: Path, used: Collection[str]) -> dict[str, list[str]]:
    """The files below `root` that are not in `used`, by kind; a system folder counts as one file."""
    used = frozenset(used)
    return file_kinds.by_kind(name for name in sorted(_all_files(root, root)) if name not in used)


def _all_files(folder: Path, root: Path) -> Iterator[str]:
    """All files but those in folders of outputs; a system folder as one name that ends in `/`."""
    for parent, inner, names in walk(folder):
        if RASTERISED in names and parent != folder:
            inner.clear()
            continue
        if OUTPUTS.intersection(names) and parent != folder:
            inner.clear()
            _say_skipped(parent)
            continue
        below = parent.relative_to(root)
        yield from ((below / name).as_posix() for name in names)
        inner[:] = [name for name in inner if name != BEHIND_LINKS]
        yield from (f"{(below / name).as_posix()}/" for name in inner if is_system_folder(name))
        inner[:] = [name for name in inner if not is_system_folder(name)]


@functools.cache  # once per folder, however often it is listed
def _say_skipped(folder: Path) -> None:
    logger.warning("%s: skipped, as `predict` or `suggest` wrote it", folder)
