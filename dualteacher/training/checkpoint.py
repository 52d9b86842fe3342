"""Checkpoints to resume an interrupted run, in a folder that is no output of Snakemake or DVC.

The folder's name is a hash of everything the result depends on, so a run never resumes from a checkpoint made with
other parameters, inputs or source code. Random states are not saved: every draw is a function of the step (see
core/seeds.py).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import pickle
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from dualteacher.machine.distributed import World
from dualteacher.methods.base import Method
from dualteacher.system import files, paths
from dualteacher.system.console import logger
from dualteacher.workflow import sources

KEPT = 2  # a crash may have damaged the newest
DIGEST = 32  # bytes of sha256 at the end of the file: torch.load does not notice a flipped bit
NAMED = 3  # differences listed in a message
Mark = dict[str, dict[str, Any]]


def mark_of(parameters: dict[str, Any], inputs: Iterable[Path], stage: str, method: Method) -> Mark:
    """Everything a run's result depends on: {parameters, inputs, sources, torch}; files by sha256."""
    root = Path(__file__).parents[2]  # folder of the package: the clone, or site-packages
    used = {name: files.sha256(root / name) for name in sources.closure(stage, root)}
    own = Path(inspect.getfile(type(method)))
    name = str(own.relative_to(root)) if own.is_relative_to(root) else own.name
    return {
        "parameters": parameters,
        "inputs": {str(path): files.sha256(path) for path in inputs},
        "sources": used | {name: files.sha256(own)},
        "torch": {"torch": torch.__version__},
    }


class Store:
    """Checkpoints of one run: written atomically every few minutes or steps; keeps two, removes them on success.

    Checkpoints of the same cell with another mark are never touched, only logged.
    """

    def __init__(self, run: str, mark: Mark, minutes: float, every: int | None = None, world: World | None = None):
        self.described, self.minutes, self.every = mark, minutes, every
        self.mark = hashlib.sha256(json.dumps(mark, sort_keys=True).encode()).hexdigest()
        self.world = world or World()
        self.folder = paths.CHECKPOINTS / run / self.mark[:16]
        self._last = time.monotonic()
        if self.world.is_rank_zero:
            self._name_others()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps. False on ranks other than 0."""
        if not self.world.is_rank_zero:
            return False
        by_step = self.every is not None and step % self.every == 0
        return by_step or time.monotonic() - self._last >= self.minutes * 60

    def finished(self, outputs: Iterable[Path]) -> bool:
        """Whether a run with this mark has finished and its outputs are unchanged."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            return bool(record["mark"] == self.mark and record["outputs"] == _hashes(outputs))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def finish(self, outputs: Iterable[Path]) -> None:
        """Record the run as finished and remove its checkpoints."""
        files.write_json(self._record, {"mark": self.mark, "outputs": _hashes(outputs)})
        shutil.rmtree(self.folder, ignore_errors=True)
        if others := list(self._others()):
            text = "%s: keeping checkpoints of other runs (%d, %s); delete them by hand to free the space"
            logger.warning(text, self.folder.parent, len(others), _gigabytes(*others))

    @property
    def _record(self) -> Path:
        return self.folder.parent / "finished.json"

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps. Keeps the two newest. Rank 0 only."""
        if not self.world.is_rank_zero:
            return
        if not (self.folder / "mark.json").exists():
            files.write_json(self.folder / "mark.json", self.described)
        with files.atomic(self.folder / f"step{step:09d}.pt") as temporary, open(temporary, "wb") as file:
            _write(state, file)
        for old in self._files()[KEPT:]:
            old.unlink()
        self._last = time.monotonic()

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The newest readable state, or None. Damaged files are skipped with a warning."""
        for path in self._files():
            try:
                with open(path, "rb") as file:
                    state: dict[str, Any] = torch.load(_checked(file), map_location=device, weights_only=True)
                return state
            except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
                reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
                logger.warning("%s: unreadable (%s); trying the previous checkpoint", path, reason)
        return None

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step*.pt"), reverse=True)

    def _others(self) -> Iterator[Path]:
        """Folders with checkpoints of this cell under another mark."""
        for folder in sorted(self.folder.parent.glob("*/")):
            if folder != self.folder and any(folder.glob("step*.pt")):
                yield folder

    def _name_others(self) -> None:
        """Log checkpoints that do not match and why. They may hold days of work, so nothing is removed."""
        for folder in self._others():
            logger.warning(
                "%s: checkpoint kept but not used (%s), made with %s; to remove it: rm -r %s",
                folder, _gigabytes(folder), self._difference(folder), shlex.quote(str(folder)),
            )  # fmt: skip

    def _difference(self, folder: Path) -> str:
        """How a folder's mark.json differs from this run, e.g. "other parameters (train.learning_rate)"."""
        try:
            other: Mark = json.loads((folder / "mark.json").read_text(encoding="utf-8"))
            parts = [(part, _flat(self.described[part]), _flat(other[part])) for part in self.described]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return "unknown settings (no readable mark.json)"
        texts = []
        for part, ours, theirs in parts:
            names = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            texts += [f"other {part} ({', '.join(names[:NAMED])}{more})"] if names else []
        return ", ".join(texts)


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested mappings flattened to {dotted name: JSON}."""
    if not isinstance(value, dict) or not value:
        return {name: json.dumps(value, sort_keys=True)}
    prefix = f"{name}." if name else ""
    return {key: leaf for inner, below in value.items() for key, leaf in _flat(below, f"{prefix}{inner}").items()}


def _gigabytes(*folders: Path) -> str:
    size = sum(path.stat().st_size for folder in folders for path in folder.glob("*") if path.is_file())
    return f"{size / 1e9:.2f} GB"


class _Hashing:
    """File wrapper that hashes what is written and keeps the OSError that torch replaces by its own."""

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
        """Do nothing: closing the file flushes it."""


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    """Write the state and its sha256. Raises OSError, e.g. if the disk is full."""
    through = _Hashing(file)
    try:
        torch.save(state, through)  # type: ignore[arg-type]
    except RuntimeError:
        if through.error is not None:
            raise through.error from None
        raise
    file.write(through.digest.digest())


def _checked(file: BinaryIO) -> BinaryIO:
    """The file, rewound. Raises ValueError unless it ends with the sha256 of the rest."""
    digest, left = hashlib.sha256(), os.fstat(file.fileno()).st_size - DIGEST
    while left > 0 and (part := file.read(min(left, 1 << 20))):
        digest.update(part)
        left -= len(part)
    if left or file.read() != digest.digest():
        raise ValueError("damaged or truncated")
    file.seek(0)
    return file


def _hashes(outputs: Iterable[Path]) -> dict[str, str]:
    return {str(path): files.sha256(path) for path in outputs}
