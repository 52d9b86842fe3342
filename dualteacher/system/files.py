"""Atomic writes: a reader never sees half a file, even if the writer is killed."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dualteacher.system.errors import UserError
from dualteacher.system.os_errors import DISK_FULL, broken_link

LOCKED = (errno.EACCES, errno.EAGAIN)  # from flock: another process holds the lock
FULL = (errno.ENOSPC, errno.EDQUOT)
LONGEST = 100  # bytes of a name that temporary names repeat; file systems allow 255, some encrypted ones 143


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Turn a full disk into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise UserError(f"{path}: {DISK_FULL}") from error
        raise


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`, otherwise remove it.

    Removes temporary files that killed processes left behind.
    """
    label, suffix = _label(path)
    temporary = path.with_name(f".{label}.{secrets.token_hex(4)}.tmp{suffix}")
    lock = None
    try:
        with full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for stale in path.parent.glob(f".{glob.escape(label)}.*.tmp{glob.escape(suffix)}"):
                _remove_if_unlocked(stale)
            lock = hold(temporary)
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        if lock is not None:
            os.close(lock)
        temporary.unlink(missing_ok=True)


def _label(path: Path) -> tuple[str, str]:
    """(name, suffix) for temporary files: the file's own, or a hash if the name is too long to extend."""
    if len(os.fsencode(path.name)) <= LONGEST:
        return path.name, path.suffix
    return hashlib.sha256(os.fsencode(path.name)).hexdigest(), path.suffix if len(path.suffix) <= 16 else ""


def check_folder(path: Path) -> None:
    """Check an output folder before starting work; UserError if it cannot be created."""
    if link := broken_link(path):
        raise UserError(link)
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise UserError(f"{place}: a file, but an output folder is needed; choose another path")


def hold(path: Path) -> int | None:
    """Lock a file, creating it if needed; the lock ends when the descriptor is closed or the process ends.

    None if another process holds it. On a file system without locks, everyone gets a descriptor.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in LOCKED:
            os.close(descriptor)
            return None
    return descriptor


def _remove_if_unlocked(temporary: Path) -> None:
    """Remove a temporary file unless its writer is alive, as shown by the lock; its age would not tell."""
    with suppress(OSError):
        lock = hold(temporary)
        if lock is not None:
            temporary.unlink()
            os.close(lock)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, if the file system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write stable, human-readable JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def update_text(path: Path, text: str) -> bool:
    """`write_text`, unless the file already holds exactly this; True if it was written."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes, atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def digest(path: Path, algorithm: str) -> str:
    """Hex digest of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def sha256(path: Path) -> str:
    """`digest` with SHA-256."""
    return digest(path, "sha256")


def is_file(path: Path) -> bool:
    """Whether `path` is a file; False for invalid names, for which `Path.is_file` raises."""
    return os.path.isfile(path)  # noqa: PTH113
