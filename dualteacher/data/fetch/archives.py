"""Files out of archives and folders, one at a time: nothing is unpacked to disk, so no name can lead astray.

Members that have no business in a data set's archive (absolute names, `..`, links, devices) are left out and
counted in one line. Sizes are limited before anything is read. Whatever is damaged, encrypted or too large
ends in one line that names the archive and the member.
"""

from __future__ import annotations

import gzip
import io
import logging
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from dualteacher.system.errors import UserError

logger = logging.getLogger(__name__)

LARGEST_MEMBER = 1 << 28  # bytes, of one file that is read: the largest images known here have 3 MB
LARGEST_TOTAL = 1 << 37  # bytes, of all members
MOST_MEMBERS = 2_000_000
AGAIN = "get it again"
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError)


class Reader(Protocol):
    """An archive or folder whose files are read in any order."""

    path: Path
    names: list[str]  # of the regular files with harmless names, '/' between folders

    def read(self, name: str) -> bytes:
        """A file's content; UserError if it is damaged or larger than LARGEST_MEMBER."""
        ...


def open_reader(path: Path) -> Reader:
    """A folder, a zip or an uncompressed tar; UserError if it is none of these."""
    if path.is_dir():
        return Folder(path)
    with _damage(path):
        if zipfile.is_zipfile(path):
            return Zip(path)
        if _begins(path, b"ustar", 257):
            return Tar(path)
    raise UserError(f"{path}: neither a folder nor a zip or tar archive, or cut off; {AGAIN}")


def find(reader: Reader, pattern: str) -> dict[str, str]:
    """Names of the files that match, by the pattern's first group."""
    matches = ((re.search(pattern, name), name) for name in reader.names)
    return {match[1]: name for match, name in matches if match}


def each(path: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files whose name matches, in the archive's order: compressed tars too, in one pass."""
    if path.is_dir() or not _compressed(path):
        reader = open_reader(path)
        yield from ((name, reader.read(name)) for name in reader.names if wanted.search(name))
        return
    skipped: list[str] = []
    with _damage(path), _Limited(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        total = 0
        for number, member in enumerate(archive):
            total += member.size
            _limit(path, number + 1, total)
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep each of them
            if not _harmless(member.name) or not (member.isreg() or member.isdir()):
                skipped.append(member.name)
            elif member.isreg() and wanted.search(member.name):
                _limit_member(path, member.name, member.size)
                opened = archive.extractfile(member)
                assert opened is not None
                yield member.name, opened.read()
    _say(path, skipped)


class Zip:
    """Fits Reader."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path)
        members = [member for member in self._zip.infolist() if not member.is_dir()]
        _limit(path, len(members), sum(member.file_size for member in members))
        regular = (0, stat.S_IFREG)  # 0: packed on a system without such kinds
        self.names, skipped = _sort((m.filename, stat.S_IFMT(m.external_attr >> 16) in regular) for m in members)
        _say(path, skipped)

    def read(self, name: str) -> bytes:
        with _damage(self.path, name):
            member = self._zip.getinfo(name)
            _limit_member(self.path, name, member.file_size)
            with self._zip.open(member) as file:  # not ZipFile.read, which unpacks all before it counts
                return file.read(member.file_size + 1)


class Tar:
    """An uncompressed tar, whose members lie in it as they are. Fits Reader."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "rb")  # noqa: SIM115 - kept open while the reader lives
        self._places: dict[str, tuple[int, int]] = {}
        found: list[tuple[str, bool]] = []
        total, end = 0, path.stat().st_size
        with _Limited(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for number, member in enumerate(archive):
                archive.members = []  # type: ignore[attr-defined]
                total += member.size
                _limit(path, number + 1, total)
                if member.isdir():
                    continue
                found.append((member.name, member.isreg() and not member.issparse()))
                self._places[member.name] = (member.offset_data, member.size)
                if member.isreg() and member.offset_data + member.size > end:
                    raise tarfile.ReadError(f"cut off within {member.name}")
        self.names, skipped = _sort(found)
        _say(path, skipped)

    def read(self, name: str) -> bytes:
        start, size = self._places[name]
        _limit_member(self.path, name, size)
        self._file.seek(start)
        return self._file.read(size)


class Folder:
    """Fits Reader. Links are followed: the folder is the user's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = sorted(walk(path))

    def read(self, name: str) -> bytes:
        file = self.path / name
        try:
            _limit_member(self.path, name, file.stat().st_size)
            return file.read_bytes()
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def walk(root: Path) -> Iterator[str]:
    """Names of the files below, links followed; a folder that links lead to twice is entered once."""
    entered: set[str] = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            inner.clear()
            continue
        entered.add(real)
        inner.sort()
        above = Path(folder).relative_to(root)
        yield from ((above / name).as_posix() for name in names)


def _sort(members: Iterable[tuple[str, bool]]) -> tuple[list[str], list[str]]:
    """(names to use, each once; names to leave alone) of (name, whether a regular file)."""
    used: dict[str, None] = {}
    skipped: list[str] = []
    for name, regular in members:
        if regular and _harmless(name):
            used[name] = None
        else:
            skipped.append(name)
    return list(used), skipped


def _harmless(name: str) -> bool:
    """A relative name that stays below the folder it would be unpacked to, on any system."""
    parts = name.split("/")
    return bool(name) and name[0] != "/" and ".." not in parts and not re.search(r"[\\\x00-\x1f]|^[A-Za-z]:", name)


def _say(path: Path, skipped: list[str]) -> None:
    if skipped:
        logger.warning("%s: %d members left out (links or unsafe names), such as %r", path, len(skipped), skipped[0])


def _limit(path: Path, members: int, total: int) -> None:
    if members > MOST_MEMBERS or total > LARGEST_TOTAL:
        raise UserError(f"{path}: claims {members} files of {total / 1e9:.0f} GB in all; refused as a trap")


def _limit_member(path: Path, name: str, size: int) -> None:
    if size > LARGEST_MEMBER:
        raise UserError(f"{path}: {name!r} claims {size / 1e6:.0f} MB, at most {LARGEST_MEMBER / 1e6:.0f} are read")


def _compressed(path: Path) -> bool:
    """Whether the file begins as gzip does (the only compressed tar published here)."""
    return _begins(path, b"\x1f\x8b")


def _begins(path: Path, mark: bytes, offset: int = 0) -> bool:
    """Whether a kind of file is known by the mark at its beginning; nothing else is read."""
    try:
        with open(path, "rb") as file:
            return file.read(offset + len(mark))[offset:] == mark
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None


class _Limited(io.RawIOBase):
    """A file, unpacked from gzip if need be, that refuses to give much at once.

    tarfile reads a header's extension whole, however long it claims to be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = gzip.open(path) if _compressed(path) else open(path, "rb")  # noqa: SIM115 - closed below

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_MEMBER:
            raise UserError(f"{self._path}: a member's header claims {size} bytes; refused as a trap")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def _damage(path: Path, member: str | None = None) -> Iterator[None]:
    """What the libraries say of a damaged archive, in one line."""
    where = f"{path}: {member!r}" if member is not None else str(path)
    try:
        yield
    except DAMAGE as error:
        raise UserError(f"{where}: damaged or cut off ({str(error)[:120] or type(error).__name__}); {AGAIN}") from None
    except (RuntimeError, NotImplementedError) as error:  # a password, an unknown compression
        raise UserError(f"{where}: cannot be unpacked ({error}); repack it as a plain zip") from None
