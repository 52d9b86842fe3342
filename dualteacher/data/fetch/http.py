"""HTTP downloads that resume, verified before they appear under their name.

A download in progress is `NAME.part`, with the server's version and length in `NAME.part.json`. After any
interruption (even kill -9), the next call resumes from there; a file called `NAME` is always complete and verified.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from urllib.parse import urlsplit

import requests

from dualteacher import __version__
from dualteacher.system import console, files, os_errors
from dualteacher.system.errors import UserError

logger = logging.getLogger(__name__)

CHUNK = 1 << 18  # bytes per read; a broken connection loses at most this much
TIMEOUT = (15.0, 60.0)  # seconds: to connect, between two reads
TRIES = 4  # in a row without progress
PROGRESS = 1 << 20  # bytes a try must bring to count as progress
PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds: after the first failure (doubles each time); limit on Retry-After
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses worth another try


@dataclass(frozen=True)
class Download:
    """A published file. Implements `fetch.Archive`.

    name: path below the folder it is fetched to. addresses: URLs of the same bytes, tried in turn. digest: hex; None if
    none is known: then only the size is compared. size: bytes, if known.
    """

    name: str
    addresses: tuple[str, ...]
    digest: str | None
    algorithm: str = "sha256"
    size: int | None = None

    def fetch(self, folder: Path) -> Path:
        """The verified file's path; uses the network only if it is missing or damaged. UserError if that fails."""
        target = folder / self.name
        if target.is_file():
            if self.fits(target):
                return target
            logger.warning("%s: damaged (wrong %s); fetching it again", target, self.algorithm)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        problems = []
        with files.full_disk(target), _locked(part) as file:
            for address in self.addresses:
                try:
                    _fetch(self, address, file)
                except _Refused as problem:
                    problems.append(f"{urlsplit(address).netloc}: {problem}")
                    logger.warning("%s: %s", address, problem)
                    continue
                os.replace(part, target)
                _note(part).unlink(missing_ok=True)
                return target
        raise UserError(
            f"{self.name}: cannot be fetched ({'; '.join(problems)}); try again later, or download it yourself and"
            f" put it at {target}"
        )

    def fits(self, path: Path) -> bool:
        """Whether the file has the published digest, or the published size if no digest is known."""
        if self.digest is None:
            return path.stat().st_size == self.size
        return files.digest(path, self.algorithm) == self.digest

    def describe(self) -> dict[str, str]:
        return {"address": self.addresses[0]} | ({} if self.digest is None else {self.algorithm: self.digest})


class _Refused(Exception):
    """This address does not work; try the next one."""


class _Transient(Exception):
    """Worth another try, after `pause` seconds if the server asked for a pause."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


def _fetch(wanted: Download, address: str, file: BufferedRandom) -> None:
    """Complete and verify `file` (the .part), starting from what it holds; _Refused if this address fails."""
    failures = restarts = 0
    furthest = _length(file)
    while True:
        try:
            whole = _receive(wanted, address, file)
        except _Transient as cut:
            # Measured from the furthest point, so a server that keeps forcing restarts is given up on.
            failures = 0 if _length(file) - furthest >= PROGRESS else failures + 1
            furthest = max(furthest, _length(file))
            if failures == TRIES:
                raise _Refused(f"{cut}; gave up after {TRIES} tries") from None
            pause = PAUSE * 2 ** max(failures - 1, 0) if cut.pause is None else min(cut.pause, LONGEST_PAUSE)
            logger.info("%s: %s; trying again in %.0f s", wanted.name, cut, pause)
            time.sleep(pause)
            continue
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        found = hashlib.file_digest(file, wanted.algorithm).hexdigest()
        if wanted.digest in (found, None):  # the size was compared while it was received
            return
        _restart(file)
        # A file joined from two responses may be wrong where a fresh download is right.
        if whole or restarts:
            raise _Refused(f"serves a file with {wanted.algorithm} {found}, expected {wanted.digest}")
        restarts += 1


def _receive(wanted: Download, address: str, file: BufferedRandom) -> bool:
    """Request the missing bytes; True if the response covered the whole file."""
    start, known = _length(file), _read_note(file)
    total = wanted.size if wanted.size is not None else known.get("total")
    if start and start == total:  # killed between the last byte and the check
        return False
    headers = {"User-Agent": f"dualteacher/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known.get("address") == address and known.get("version"):
            headers["If-Range"] = known["version"]
    try:
        with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT) as response:
            start, total = _answer(response, wanted, address, start, file)
            _write(response, wanted, start, total, file)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        if isinstance(error, requests.exceptions.SSLError):
            raise _Refused(f"no secure connection ({_short(error)})") from None
        raise _Transient(_short(error)) from None
    except requests.RequestException as error:
        raise _Refused(_short(error)) from None
    if total is not None and _length(file) < total:
        raise _Transient(f"the connection closed after {_length(file)} of {total} bytes")
    return start == 0


def _answer(
    response: requests.Response, wanted: Download, address: str, start: int, file: BufferedRandom
) -> tuple[int, int | None]:
    """(offset of the body, length of the whole file if known); truncates the part if the server starts over."""
    status, total = response.status_code, None
    if status in TRANSIENT:
        asked = response.headers.get("Retry-After", "")
        raise _Transient(f"HTTP {status} {response.reason}", float(asked) if asked.isdigit() else None)
    if status == 416:  # the part is longer than the server's file
        _restart(file)
        raise _Transient("the server's file is shorter than the part; starting over", 0.0)
    if status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if span is None or int(span[1]) != start:
            _restart(file)
            raise _Transient("the server sent another range than requested; starting over", 0.0)
        total = None if span[2] == "*" else int(span[2])
    elif status == 200:  # no range support, or another version of the file
        length = response.headers.get("Content-Length", "")
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        total = int(length) if length.isdigit() and not encoded else None
        _restart(file)
        start = 0
    else:
        raise _Refused(f"HTTP {status} {response.reason}")
    if wanted.size is not None and total not in (None, wanted.size):
        raise _Refused(f"offers {total} bytes, expected {wanted.size}")
    total = wanted.size if total is None else total
    if start == 0:
        version = response.headers.get("ETag", "")
        if not version or version.startswith("W/"):  # weak ETags do not promise the same bytes
            version = response.headers.get("Last-Modified", "")
        files.write_json(_note(Path(file.name)), {"address": address, "version": version, "total": total})
    return start, total


def _write(response: requests.Response, wanted: Download, start: int, total: int | None, file: BufferedRandom) -> None:
    """Append the body to the part, with progress in megabytes."""
    free = shutil.disk_usage(Path(file.name).parent).free
    if total is not None and free < total - start:
        needed = f"{(total - start) / 1e9:.2f} GB to fetch, {free / 1e9:.2f} GB free"
        raise UserError(f"{file.name}: {os_errors.DISK_FULL} ({needed})")

    def megabytes() -> Iterator[int]:
        file.seek(0, os.SEEK_END)
        done, reported = start, start // 10**6
        for piece in response.iter_content(CHUNK):
            done += len(piece)
            if total is not None and done > total:
                raise _Refused(f"sends more than the {total} bytes it should")
            file.write(piece)
            yield from range(reported, done // 10**6)
            reported = done // 10**6

    name = wanted.name + (f" from {start / 1e6:.0f} MB on" if start else "")
    left = None if total is None else math.ceil((total - start) / 1e6)
    try:
        for _ in console.progress(megabytes(), name, left, "MB"):
            pass
    finally:
        file.flush()


def _length(file: BufferedRandom) -> int:
    return file.seek(0, os.SEEK_END)


def _restart(file: BufferedRandom) -> None:
    file.truncate(0)
    _note(Path(file.name)).unlink(missing_ok=True)


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(file: BufferedRandom) -> dict:
    """Address, version and total length noted when the first byte arrived; {} if unknown."""
    try:
        note = json.loads(_note(Path(file.name)).read_text(encoding="utf-8"))
        return note if isinstance(note, dict) else {}
    except (OSError, ValueError):
        return {}


def _short(error: Exception) -> str:
    """The underlying cause in a few words."""
    text = str(error)
    for sign, words in (
        ("NameResolution", "the name of the server cannot be resolved"),
        ("refused", "connection refused"),
        ("timed out", "no answer in time"),
        ("IncompleteRead", "the connection was cut"),
        ("reset by peer", "the connection was cut"),
        ("Connection aborted", "the connection was cut"),
    ):
        if sign in text:
            return words
    return " ".join(text.split())[:120] or type(error).__name__


@contextmanager
def _locked(part: Path) -> Iterator[BufferedRandom]:
    """Open the part under a lock, so that no second process writes to it; an empty part is removed at the end."""
    lock = files.hold(part)
    if lock is None:
        raise UserError(f"{part}: another process is fetching it; wait for it, or end it")
    try:
        with open(part, "a+b") as file:
            try:
                yield file
            finally:
                if part.exists() and _length(file) == 0:
                    part.unlink()
    finally:
        os.close(lock)
