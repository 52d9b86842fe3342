"""manifest.json: which files the download stage fetched, with size, hash and origin; verified before each use."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from dualteacher.data.fetch import Archive, archives
from dualteacher.system import files
from dualteacher.system.errors import UserError

AGAIN = "run the download stage again"


def write(path: Path, published: Sequence[Archive], fetched: Sequence[Path]) -> None:
    """Record each archive's file (relative to the manifest if below its folder), size, hash and origin."""
    entries = []
    for archive, file in zip(published, fetched, strict=True):
        beside = file.is_relative_to(path.parent)
        name = file.relative_to(path.parent) if beside else file.absolute()
        entries.append({"file": name.as_posix(), **identity(file), **archive.describe()})
    files.write_json(path, {"archives": entries})


def read(path: Path, published: Sequence[Archive]) -> list[Path]:
    """The archives' files, verified; UserError if one is missing, changed or from another release."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["archives"]
        found = [(path.parent / entry["file"], entry["sha256"], entry) for entry in entries]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the download stage") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a manifest ({error!r}); {AGAIN}") from None
    expected = [archive.describe() for archive in published]
    match = [origin.items() <= entry.items() for origin, (_, _, entry) in zip(expected, found, strict=False)]
    if not all(match) or len(found) != len(expected):
        raise UserError(f"{path}: not the archives that params.yaml needs; {AGAIN}")
    for file, digest, _ in found:
        if not file.is_dir():
            verify(file, digest)
        elif identity(file)["sha256"] != digest:
            raise UserError(f"{file}: its files changed since the download stage; {AGAIN}")
    return [file for file, _, _ in found]


def identity(path: Path) -> dict[str, int | str]:
    """Size and sha256 of a file; for a folder, the sha256 of its files' names and sizes (reading them all is slow)."""
    if path.is_file():
        return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
    sizes = {name: (path / name).stat().st_size for name in archives.walk(path) if (path / name).is_file()}
    listed = "".join(f"{name}\n{size}\n" for name, size in sorted(sizes.items()))
    digest = hashlib.sha256(listed.encode("utf-8", errors="surrogateescape")).hexdigest()
    return {"files": len(sizes), "bytes": sum(sizes.values()), "sha256": digest}


def verify(path: Path, digest: str, algorithm: str = "sha256") -> None:
    """UserError unless the file at `path` has this hex digest (sha256; sha1 and md5 for old archives)."""
    try:
        found = files.digest(path, algorithm)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the download stage") from None
    if found != digest.lower():
        raise UserError(
            f"{path}: {algorithm} is {found}, expected {digest.lower()}: damaged, or not the published file;"
            " delete it and download it again"
        )


def borrow(folder: Path) -> None:
    """In the copy of the project that DVC makes for an experiment, link the project's archives into `folder`.

    The copy lies below .dvc/tmp/exps/ and holds what git and DVC track. Archives are tracked by neither, so each
    experiment would download them again. The linked files are not verified here; their readers do that.
    """
    copies = next((parent for parent in Path.cwd().parents if parent.parts[-3:] == (".dvc", "tmp", "exps")), None)
    if copies is None:
        return
    original = copies.parents[2] / folder
    for name in archives.walk(original):
        target = folder / name
        unfinished = "/." in f"/{name}" or ".part" in target.name
        if unfinished or target.name == "manifest.json" or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(original / name, target)
        except OSError:  # another disk, or a file system without hard links
            shutil.copy2(original / name, target)
