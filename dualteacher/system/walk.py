"""Walk through a folder's files, links to folders included: one rule for everything that lists a user's files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

BEHIND_LINKS = ".behind-links"  # in the watched folder: lists of what lies behind links, for DVC


def walk(folder: Path | str) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` in sorted order that follows links to folders, except one that leads back to a folder around it."""
    yield from _below(Path(folder), frozenset())


def links(folder: Path | str) -> list[Path]:
    """The links to folders that `walk` follows. Snakemake's list sees changes behind them; DVC needs them listed."""
    return [parent / name for parent, inner, _ in walk(folder) for name in inner if (parent / name).is_symlink()]


def listing(folder: Path | str) -> dict[str, str]:
    """Size, time and path of each file below, by path."""
    lines = {}
    for place, _, names in walk(folder):
        for path in map(place.joinpath, names):
            with contextlib.suppress(OSError):  # just deleted, or a broken link
                status = path.stat()
                lines[str(path)] = f"{status.st_size} {status.st_mtime_ns} {path}\0"
    return lines


def encoded(lines: Mapping[str, str]) -> bytes:
    """A `listing` as the content of a file."""
    return "\n".join(lines.values()).encode("utf-8", "surrogateescape")


def _below(folder: Path, around: frozenset[tuple[int, int]]) -> Iterator[tuple[Path, list[str], list[str]]]:
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # gone, not readable, or a link that leads nowhere
        return
    here = (status.st_dev, status.st_ino)
    if here in around:
        return
    inner = [entry.name for entry in entries if _is_folder(entry)]
    yield folder, inner, [entry.name for entry in entries if not _is_folder(entry)]
    for name in inner:  # the caller may have shortened it
        yield from _below(folder / name, around | {here})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
