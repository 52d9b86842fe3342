"""Checkpoints to go on from after an interruption, in an undeclared folder both engines leave alone.

A run's folder is named by a fingerprint of everything its result depends on, so a changed parameter,
input or source file never resumes the old run. Random states need not be kept: every draw is a function
of the step (see seeds.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from dualteacher.machine.distributed import World
from dualteacher.system import files, paths
from dualteacher.system.console import logger

KEPT = 2  # the newest may be damaged by whatever ended the run
DIGEST = 32  # bytes behind a checkpoint: the sha256 of all before them, since torch.load would believe a flipped bit


def fingerprint(parameters: dict[str, Any], inputs: Iterable[Path]) -> str:
    """64 hex digits over parameters, the inputs' content, and the package's sources."""
    package = Path(__file__).parent.parent
    sources = sorted(package.rglob("*.py"))
    described = {
        "parameters": parameters,
        "inputs": {str(path): files.sha256(path) for path in inputs},
        "code": {str(path.relative_to(package)): files.sha256(path) for path in sources},
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


class Store:
    """Checkpoints of one run: written atomically every few minutes or steps, the last two kept, gone on success."""

    def __init__(
        self, run: str, mark: str, minutes: float, every: int | None = None, world: World | None = None
    ) -> None:
        self.mark, self.minutes, self.every = mark, minutes, every
        self.world = world or World()
        self.folder = paths.CHECKPOINTS / run / mark[:16]
        self._last = time.monotonic()
        for stale in self.folder.parent.glob("*"):
            if stale != self.folder and stale.is_dir() and self.world.leads:
                shutil.rmtree(stale, ignore_errors=True)

    def due(self, step: int) -> bool:
        """Whether it is time for a checkpoint after `step` steps; only the leading process ever says so."""
        if not self.world.leads:
            return False
        by_step = self.every is not None and step % self.every == 0
        return by_step or time.monotonic() - self._last >= self.minutes * 60

    def finished(self, outputs: Iterable[Path]) -> bool:
        """Whether this very run has ended before and its outputs are still what it wrote."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            return bool(record["mark"] == self.mark and record["outputs"] == _hashes(outputs))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def finish(self, outputs: Iterable[Path]) -> None:
        """Note that the run has ended and drop its checkpoints."""
        files.write_json(self._record, {"mark": self.mark, "outputs": _hashes(outputs)})
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _record(self) -> Path:
        return self.folder.parent / "finished.json"

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps; older ones but the last go. The leading process's affair."""
        if not self.world.leads:
            return
        with files.atomic(self.folder / f"step{step:09d}.pt") as temporary, open(temporary, "wb") as file:
            _write(state, file)
        for old in self._files()[KEPT:]:
            old.unlink()
        self._last = time.monotonic()

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The newest readable state; a damaged file is passed over with a message."""
        for path in self._files():
            try:
                with open(path, "rb") as file:
                    state: dict[str, Any] = torch.load(_checked(file), map_location=device, weights_only=True)
                return state
            except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
                reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
                logger.warning("%s cannot be read (%s); going on from the one before", path, reason)
        return None

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step*.pt"), reverse=True)


class _Hashing:
    """A file to write to, which hashes what goes through it and keeps the error that torch would hide."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Nothing: the file is flushed once, by whoever closes it."""


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    """The state and the hash behind it; OSError if the disk is full."""
    through = _Hashing(file)
    try:
        torch.save(state, through)  # type: ignore[arg-type]
    except RuntimeError:
        if through.error is not None:
            raise through.error from None
        raise
    file.write(through.digest.digest())


def _checked(file: BinaryIO) -> BinaryIO:
    """The file, at its start; ValueError unless its last bytes are the hash of all before them."""
    digest, left = hashlib.sha256(), os.fstat(file.fileno()).st_size - DIGEST
    while left > 0 and (part := file.read(min(left, 1 << 20))):
        digest.update(part)
        left -= len(part)
    if left or file.read() != digest.digest():
        raise ValueError("damaged or cut short")
    file.seek(0)
    return file


def _hashes(outputs: Iterable[Path]) -> dict[str, str]:
    return {str(path): files.sha256(path) for path in outputs}
