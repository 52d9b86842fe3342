"""Folders of images or masks as params.yaml names them: `images`, or `*/images` for scene1/images, scene2/images, …

An image's key is its path without the named folders: scene1/a for scene1/images/a.jpg.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from dualteacher.system.errors import UserError

ANY = "*"  # a part of a path: one folder of any name


def matching(root: Path, folder: str) -> list[Path]:
    """The folders below `root` that fit."""
    return sorted(path for path in root.glob(folder) if path.is_dir()) if ANY in folder else [root / folder]


def relative(name: str, folder: str) -> str | None:
    """The path of a file below `folder`, after the parts for `*`; None if it is elsewhere."""
    parts, named = PurePosixPath(name).parts, PurePosixPath(folder).parts
    if len(parts) <= len(named) or any(wanted not in (ANY, part) for part, wanted in zip(parts, named, strict=False)):
        return None
    free = [part for part, wanted in zip(parts, named, strict=False) if wanted == ANY]
    return "/".join([*free, *parts[len(named) :]])


def filled(folder: str, key: str) -> str:
    """The path in `folder` of the file with this path below it; UserError if that has no folder for each `*`."""
    named, parts = PurePosixPath(folder).parts, [*PurePosixPath(key).parts]
    if len(parts) <= named.count(ANY):
        raise UserError(f"{key}: no folder for {ANY} in {folder}; put the image into one of these folders")
    return "/".join([*(parts.pop(0) if part == ANY else part for part in named), *parts])


def common(names: Sequence[str], is_role: Callable[[str], bool]) -> str | None:
    """`*/images` for files below such folders of one name at one depth; None for others, or if `*` is not needed."""
    tops = set()
    for name in names:
        parts = PurePosixPath(name).parts[:-1]
        depths = [depth for depth, word in enumerate(parts) if is_role(word)]
        if not depths:
            return None
        tops.add(parts[: depths[-1] + 1])
    if len({len(top) for top in tops}) != 1 or len({top[-1] for top in tops}) != 1 or len(tops) < 2:
        return None
    return "/".join(words[0] if len({*words}) == 1 else ANY for words in zip(*tops, strict=True))
