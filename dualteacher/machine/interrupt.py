"""Stop on request: after SIGTERM or SIGINT, finish the current step, save, exit."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import torch

from dualteacher.machine.distributed import World, reduce_sum

ASK_EVERY = 10  # steps between all-reduces of the request
SAME = 1.0  # seconds; signals closer together count as one
PATIENCE = 5.0  # seconds that a rank still waits for its batch, since ranks stop at the same step
LOOK = signal.SIGURG  # makes the main thread check a request; ignored by default, so a late one does no harm
Item = TypeVar("Item")


class StopWaiting(BaseException):
    """A stop was requested while the run waited for a batch. Not an Exception, so that no library swallows it."""


class Request:
    """A request to stop this run."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.at = 0.0
        self.waiting_since: float | None = None
        self.patience = 0.0

    def made(self, world: World, step: int, device: torch.device) -> bool:
        """Whether to stop after this step; the same on every rank."""
        if world.size == 1:
            return self.signal is not None
        if step % ASK_EVERY:
            return False
        asked = torch.tensor(float(self.signal is not None), device=device)
        return bool(reduce_sum(asked, world) > 0)

    def over(self, items: Iterable[Item], world: World) -> Iterator[Item]:
        """Yield the items. StopWaiting if a stop is requested while waiting for the next one."""
        self.patience = 0.0 if world.size == 1 else PATIENCE
        iterator = iter(items)
        while True:
            try:
                self.waiting_since = time.monotonic()
                self.check()
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.waiting_since = None
            yield item

    @property
    def overdue(self) -> bool:
        """Whether a stop was requested and the wait for a batch has outlasted `patience`."""
        since = self.waiting_since
        if self.signal is None or since is None:
            return False
        return time.monotonic() - max(since, self.at) >= self.patience

    def check(self) -> None:
        """Raise StopWaiting if overdue. Runs in signal handlers, and so interrupts the wait."""
        if self.overdue:
            self.waiting_since = None
            raise StopWaiting


@contextmanager
def listening() -> Iterator[Request]:
    """Record SIGTERM and SIGINT instead of dying; a second signal ends the process at once.

    Only the main thread receives signals; in another, no stop is ever requested. Signals within SAME of the first are
    ignored: a scheduler signals every process of a job, and torch's launcher forwards the signal as well.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, _frame: FrameType | None) -> None:
        if request.signal is None:
            request.signal, request.at = number, time.monotonic()
            request.check()
        elif time.monotonic() - request.at > SAME:
            raise KeyboardInterrupt

    def look(_number: int, _frame: FrameType | None) -> None:
        request.check()

    handlers = {signal.SIGTERM: note, signal.SIGINT: note, LOOK: look}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
