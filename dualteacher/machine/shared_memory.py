"""The machine's shared memory, through which loader processes hand over their batches; Docker's default is 64 MB."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

FOLDER = Path("/dev/shm")
ADVICE = "enlarge it (docker run --shm-size=2g, or --ipc=host), or set runtime.workers: 0"
PREFETCH = 4  # batches that a loader process prepares ahead
IN_HAND = 2  # batches that have left the loader processes: in use, and on their way to the GPU


class Room(NamedTuple):
    """Bytes."""

    free: int
    total: int

    def __str__(self) -> str:
        return f"{self.free / 2**20:.0f} of {self.total / 2**20:.0f} MB free"


class Plan(NamedTuple):
    """How to load: loader processes, and the batches that each prepares ahead."""

    workers: int
    prefetch: int = PREFETCH

    def bytes(self, batch: int) -> int:
        """Shared memory for batches of so many bytes."""
        return batch * (self.workers * self.prefetch + IN_HAND) if self.workers else 0


def room() -> Room | None:
    """Free and total shared memory; None where it is no file system of its own, as on macOS."""
    try:
        usage = shutil.disk_usage(FOLDER)
    except OSError:
        return None
    return Room(usage.free, usage.total)


def fit(workers: int, batch: int) -> Plan:
    """The most loader processes, up to `workers`, whose batches of `batch` bytes fit; 0 loads in the run's process.

    The processes of one run share the memory, by LOCAL_WORLD_SIZE of torch's launcher.
    """
    found = room()
    share = None if found is None else found.free // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    for number in range(workers, 0, -1):
        for prefetch in (PREFETCH, 2, 1):
            plan = Plan(number, prefetch)
            if share is None or plan.bytes(batch) <= share:
                return plan
    return Plan(0)
