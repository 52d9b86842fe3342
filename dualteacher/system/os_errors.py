"""One-line messages for operating system errors: what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

DISK_FULL = "the disk is full; make room and run the same command again"
UNAVAILABLE = "the disk or network share does not answer; check it and run the same command again"
ADVICE = {
    errno.ENOSPC: DISK_FULL,
    errno.EDQUOT: DISK_FULL,
    errno.ENOENT: "no such file or folder",
    errno.EEXIST: "a file exists where a folder is needed; choose another path, or remove it",
    errno.ENOTDIR: "part of the path is a file, not a folder; choose another path, or remove it",
    errno.EISDIR: "a folder exists where a file is needed; choose another path, or remove it",
    errno.ENAMETOOLONG: "the name is too long for this file system; shorten it",
    errno.EMFILE: "too many open files; raise the limit (`ulimit -n 4096`) and run the same command again",
    errno.ENFILE: "too many open files on this machine; end other programs and run the same command again",
    errno.EIO: UNAVAILABLE,
    errno.ESTALE: UNAVAILABLE,
    errno.ENOTCONN: UNAVAILABLE,
    errno.ENODEV: UNAVAILABLE,
    errno.ETIMEDOUT: UNAVAILABLE,
    errno.EHOSTDOWN: UNAVAILABLE,
}


def explain(error: OSError) -> str:
    """The advice for this kind of error and the files concerned, in one line."""
    named = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes | Path)]
    for name in named:
        if link := broken_link(Path(name)):
            return link
    words = ADVICE.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    return " ".join(f"{words}: {' → '.join(named) or 'no file named'}".split())


def broken_link(path: Path) -> str | None:
    """A message if `path` or a folder above it is a broken link, else None."""
    for place in (*reversed(path.parents), path):
        if os.path.islink(place):  # noqa: PTH114  # Path.is_symlink may raise
            try:
                place.stat()
            except OSError as error:
                if error.errno == errno.ELOOP:
                    return f"{place}: a link to itself; remove it"
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # no permission, or a share that does not answer
                    return None
                target = os.readlink(place)  # noqa: PTH115
                return f"{place}: a link to {target}, which is not there; is that disk mounted?"
    return None
