"""Batches for a run, from as many loader processes as the shared memory has room for."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator

import torch

from dualteacher.data import loader
from dualteacher.data.loader import Augmented, Take
from dualteacher.machine import shared_memory
from dualteacher.machine.interrupt import StopWaiting
from dualteacher.machine.shared_memory import Plan
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError

MASK = 1  # bytes per pixel of a mask, or of the map of what is not padding


def feed(
    dataset: Augmented, takes: list[Take], first: int, last: int, workers: int, device: torch.device
) -> Iterator[loader.StepBatch]:
    """Batches of steps `first` … `last - 1`. A worker's UserError is raised again in one line."""
    plan = plan_for(dataset, takes, workers)
    pin = device.type == "cuda"
    source = loader.batches(dataset, takes, first, last, workers=plan.workers, prefetch=plan.prefetch, pin=pin)
    iterator = iter(source)
    try:
        yield from iterator
    except UserError as error:  # torch prepends the worker's traceback to the message
        raise UserError(str(error).rpartition("UserError: ")[2]) from None
    except StopWaiting:
        if plan.workers:
            _kill_loaders()
            # A process killed in a critical section never releases its lock, for which torch would wait for ever.
            vars(iterator)["_shutdown"] = True
        raise


def plan_for(dataset: Augmented, takes: list[Take], workers: int) -> Plan:
    """Loader processes that fit into the shared memory; logs a warning if they are fewer than `workers`.

    The number changes no batch, only how fast batches come. With too little room, they would stop for ever.
    """
    images = sum(take.share.stop - take.share.start for take in takes)
    channels = dataset.pack.channels
    batch = images * dataset.side**2 * (channels.count * (1 if channels.depth == 8 else 4) + MASK)
    plan = shared_memory.fit(workers, batch)
    if plan != Plan(workers):
        logger.warning(
            "%s: %s, too little for runtime.workers = %d with batches of %.3g MB: loading with %s; to load faster, %s",
            shared_memory.FOLDER, shared_memory.room(), workers, batch / 2**20,
            f"{plan.workers} of them, {plan.prefetch} batches ahead" if plan.workers else "none, in the run's process",
            shared_memory.ADVICE.partition(", or set")[0],
        )  # fmt: skip
    return plan


def _kill_loaders() -> None:
    """End loader processes that hang: the interpreter waits for them when it exits."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise an error for each
    for process in multiprocessing.active_children():
        process.kill()
