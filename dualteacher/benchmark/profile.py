"""Profile of a training step by part: `python -m dualteacher benchmark --profile`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from dualteacher.benchmark.cases import Case
from dualteacher.benchmark.measure import wait
from dualteacher.benchmark.programs import Ours
from dualteacher.core import ema, losses, mixing, upsampling
from dualteacher.data import loader
from dualteacher.models.segmenter import Segmenter

REST = "other: transfers, checks, bookkeeping"
ENCODER = "frozen encoder, forward"
TEACHER, AVERAGE = "teacher, forward", "teacher's moving average"
PARTS: list[tuple[Any, str, str]] = [  # owner, function, part that its time counts as
    (loader, "finish", "weak views: colour, padding"),
    (losses, "pseudo_label", "pseudo-labels and confidences, full resolution"),
    (mixing, "strong_view", "strong views: jitter, blur, grayscale"),
    (mixing, "cutmix", "mixing"),
    (mixing, "classmix", "mixing"),
    (mixing, "copy_paste", "mixing"),
    (upsampling, "cross_entropy_sum", "losses and their gradient, full resolution"),
    (torch.Tensor, "backward", "student, backward"),
    (ema, "update", AVERAGE),
]


class Stopwatch:
    """Exclusive seconds by part: a part's time excludes the parts it calls."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._stack: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time spent inside as `name`."""
        self._stop()
        self._stack.append(name)
        try:
            yield
        finally:
            self._stop()
            self._stack.pop()

    def _stop(self) -> None:
        wait(self.device)
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def watched(self, function: Callable[..., Any], name: str | None) -> Callable[..., Any]:
        """Wrap a function to record its time; without a name, as a pass of teacher or student."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            network = "student, forward" if torch.is_grad_enabled() else TEACHER
            with self.part(name or network):
                return function(*arguments, **keywords)

        return call


def shares(case: Case, device: torch.device, repeats: int) -> dict[str, float]:
    """Seconds per step by part, largest first: mean over `repeats` steps, after two warm-up steps."""
    step, clock = Ours(case, device), Stopwatch(device)
    with ExitStack() as stack:
        for owner, name, part in PARTS:
            stack.enter_context(mock.patch.object(owner, name, clock.watched(getattr(owner, name), part)))
        stack.enter_context(mock.patch.object(Segmenter, "forward", clock.watched(Segmenter.forward, None)))
        if case.freeze == "backbone":  # what is left of a pass is a head's
            features = clock.watched(Segmenter.features, ENCODER)
            stack.enter_context(mock.patch.object(Segmenter, "features", features))
        update = clock.watched(step.optimizer.step, "optimiser")
        stack.enter_context(mock.patch.object(step.optimizer, "step", update))
        for number in range(-2, repeats):
            if number == 0:
                clock.seconds.clear()
            with clock.part(REST):
                step(number + 2)
    found = sorted(clock.seconds.items(), key=lambda item: -item[1])
    return {name: seconds / repeats for name, seconds in found}


def teachers_share(parts: dict[str, float]) -> float:
    """Share of a step that the teachers take: their passes without a frozen encoder, and their moving averages."""
    return (parts[TEACHER] + parts[AVERAGE]) / sum(parts.values())


def table(case: Case, parts: dict[str, float]) -> str:
    """Milliseconds and shares as a text table."""
    whole = sum(parts.values())
    rows = [f"  {name:52} {seconds * 1000:8.1f} ms {seconds / whole:6.1%}" for name, seconds in parts.items()]
    return "\n".join([case.name, *rows, f"  {'a step':52} {whole * 1000:8.1f} ms"])
