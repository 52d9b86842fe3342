"""Stop on request: after SIGTERM or SIGINT, finish the current step, save, exit."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from dualteacher.machine.distributed import World, reduce_sum

ASK_EVERY = 10  # steps between all-reduces of the request
SAME = 1.0  # seconds; signals closer together count as one


class Request:
    """A request to stop this run."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def made(self, world: World, step: int, device: torch.device) -> bool:
        """Whether to stop after this step; the same on every rank."""
        if world.size == 1:
            return self.signal is not None
        if step % ASK_EVERY:
            return False
        asked = torch.tensor(float(self.signal is not None), device=device)
        return bool(reduce_sum(asked, world) > 0)


@contextmanager
def listening() -> Iterator[Request]:
    """Record the first SIGTERM or SIGINT; a second one raises KeyboardInterrupt.

    Signals within SAME seconds of the first are ignored: a scheduler signals all processes of a job, and torch's
    launcher forwards the signal again.
    """
    request = Request()
    first = 0.0

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        if request.signal is None:
            request.signal, first = number, time.monotonic()
        elif time.monotonic() - first > SAME:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
