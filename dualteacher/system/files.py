"""Writing so that a reader never sees half a file, whatever happens to the writer."""

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

LOCKED = (errno.EACCES, errno.EAGAIN)  # flock: somebody else holds it


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is synced and renamed over `path`, else removed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp{path.suffix}")
    held = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp{path.suffix}"):
            _clear(left)
        held = hold(temporary)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path}: the disk is full; make room and run the same command again") from error
        raise
    finally:
        if held is not None:
            os.close(held)
        temporary.unlink(missing_ok=True)


def hold(path: Path) -> int | None:
    """Lock a file, made if it is not there, until the descriptor is closed or this process ends, however it does.

    None if another process holds it. Where a file system has no locks, nobody is kept out.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in LOCKED:
            os.close(descriptor)
            return None
    return descriptor


def _clear(left: Path) -> None:
    """Remove a temporary file unless the process that writes it is still there; clocks are not asked."""
    with suppress(OSError):
        held = hold(left)
        if held is not None:
            left.unlink()
            os.close(held)


def _sync_folder(folder: Path) -> None:
    """Let a rename survive a power cut; not every file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Stable, human-readable JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def update_text(path: Path, text: str) -> bool:
    """`write_text` unless the file holds just this already; whether it was written."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
