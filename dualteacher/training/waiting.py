"""What to do when no batch comes: name the likely cause, and let a request to stop end the wait."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

from dualteacher.machine import shared_memory
from dualteacher.machine.interrupt import LOOK, Request
from dualteacher.system import console
from dualteacher.system.console import logger

WARN_AFTER = 120.0  # seconds without a batch; then again each time the wait has doubled
LOOK_EVERY = 1.0  # seconds


class Watchdog(threading.Thread):
    """Watches a request's waits while in its context."""

    def __init__(self, request: Request, name: str) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.request, self.run_name = request, name
        self._ended = threading.Event()

    def __enter__(self) -> Watchdog:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        main, next_warning = threading.main_thread().ident, WARN_AFTER
        while not self._ended.wait(LOOK_EVERY):
            since = self.request.waiting_since
            if since is None:
                next_warning = WARN_AFTER
                continue
            if self.request.overdue and main is not None:
                signal.pthread_kill(main, LOOK)
            waited = time.monotonic() - since
            if waited >= next_warning:
                next_warning = 2 * waited
                logger.warning(
                    "%s: no batch for %s: %s; SIGTERM or Ctrl-C saves the run and ends it",
                    self.run_name, console.duration(waited), likely_cause(),
                )  # fmt: skip


def likely_cause() -> str:
    """Why no batch comes, as far as the states of the loader processes and the shared memory show."""
    loaders = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    if not loaders:
        return "reading or decoding images takes this long; is the disk or network share that holds data/ slow?"
    room = shared_memory.room()
    if room is not None and room.free < room.total / 10:
        return (
            f"{shared_memory.FOLDER} is nearly full ({room}), and loader processes hand batches over through it;"
            f" {shared_memory.ADVICE}"
        )
    states = [_state(pid) for pid in loaders]
    if "D" in states:
        return "a loader process waits for the disk; does the disk or network share that holds data/ answer?"
    if "T" in states:
        return "a loader process is suspended; resume it (kill -CONT), or restart the run"
    if "R" in states:
        return "the loader processes are still busy; are the images very large, or the CPUs taken by other jobs?"
    return "the loader processes sleep; stop the run and set runtime.workers: 0, which loads without them"


def _state(pid: int) -> str:
    """The letter of a process's state in /proc: R running, S sleeping, D waiting for a disk, T stopped; "" unknown."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    return ""
