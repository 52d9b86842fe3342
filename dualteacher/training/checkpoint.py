"""Checkpoints to go on from after an interruption, in an undeclared folder both engines leave alone.

A run's folder is named by a fingerprint of everything its result depends on, so a changed parameter,
input or source file never resumes the old run. Random states need not be kept: every draw is a function
of the step (see seeds.py).
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from dualteacher import files, paths
from dualteacher.console import logger

KEPT = 2  # the newest may be damaged by whatever ended the run


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
    """Checkpoints of one run: written atomically every few minutes, the last two kept, gone on success."""

    def __init__(self, run: str, mark: str, minutes: float) -> None:
        self.folder = paths.CHECKPOINTS / run / mark[:16]
        self.minutes = minutes
        self._last = time.monotonic()
        for stale in self.folder.parent.glob("*"):
            if stale != self.folder:
                shutil.rmtree(stale, ignore_errors=True)

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self._last >= self.minutes * 60

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps; older ones but the last go."""
        with files.atomic(self.folder / f"step{step:09d}.pt") as temporary:
            torch.save(state, temporary)
        for old in self._files()[KEPT:]:
            old.unlink()
        self._last = time.monotonic()

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The newest readable state; a damaged file is passed over with a message."""
        for path in self._files():
            try:
                state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
                return state
            except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
                reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
                logger.warning("%s cannot be read (%s); going on from the one before", path, reason)
        return None

    def clear(self) -> None:
        """Remove the folder: the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self.folder.parent, paths.CHECKPOINTS):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step*.pt"), reverse=True)
