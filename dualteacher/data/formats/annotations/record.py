"""The record beside rasterised masks: where they come from and by which rule they were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from dualteacher.data.formats import folder_files
from dualteacher.data.formats.folder_files import RASTERISED, RASTERISED_FOLDER
from dualteacher.system import files


def write(root: Path, masks: str, pngs: Mapping[str, bytes], content: dict[str, Any]) -> int:
    """Write masks (file name → PNG) and record, remove earlier masks that are not among them.

    Keeps masks that were edited since, and returns their number. Files with the same content are not touched, so that
    nothing reruns.
    """
    path = root / masks / RASTERISED
    before: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["masks"] if path.is_file() else {}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in pngs.items()}
    kept = 0
    for name, data in pngs.items():
        there = _digest(root / masks / name)
        if there not in (None, digests[name], before.get(name)):
            kept += 1
        elif there != digests[name]:
            files.write_bytes(root / masks / name, data)
    for name, digest in before.items():
        if name not in pngs and _digest(root / masks / name) == digest:
            (root / masks / name).unlink()
    files.write_json(path, content | {"masks": digests})
    return kept


def outdated(root: Path, masks: str) -> Iterator[str]:
    """Annotation files that have changed since the masks in the folder `masks` were made, or may be new ones."""
    top = PurePosixPath(masks).parts[:1]
    path = root.joinpath(*top, RASTERISED)
    if top and top[0].startswith(RASTERISED_FOLDER) and path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        sources: dict[str, str] = record["sources"]
        yield from (name for name, digest in sources.items() if _digest(root / name) != digest)
        if "seen" in record:
            yield from _new(root, sources, record["seen"])


def _new(root: Path, sources: Iterable[str], seen: Iterable[str]) -> Iterator[str]:
    """Files of the annotations' kinds that were not there."""
    known = {*seen}
    for suffix in sorted({PurePosixPath(name).suffix.lower() for name in sources}):
        yield from (name for name in folder_files.with_suffix(root, suffix) if name not in known)


def _digest(path: Path) -> str | None:
    return files.sha256(path) if path.is_file() else None
