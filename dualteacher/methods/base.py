"""What the training loop asks of a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dualteacher.core import losses
from dualteacher.data.loader import Images, StepBatch
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Settings


class Clock(NamedTuple):
    """The current optimiser step, and the steps of an epoch (a pass over the labelled images)."""

    step: int
    steps_per_epoch: int

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    @property
    def step_in_epoch(self) -> int:
        return self.step % self.steps_per_epoch


class Shard(NamedTuple):
    """A part of a step's global batch: the index of its first unlabelled image, and its number of groups.

    A group is the batch of one GPU in the release: its images mix among themselves, and its losses have their own
    denominators. A step's loss is the mean over its groups, however they are split into shards and processes.
    """

    first: int = 0
    groups: int = 1


class Losses(NamedTuple):
    """The loss to minimise, and its parts for the history: detached scalars on the device."""

    total: Tensor
    parts: dict[str, Tensor]


ALL = Shard()


def by_group(groups: int, loss: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """The mean over the groups of `loss` on each group's part of the batches."""
    if groups == 1:
        return loss(*batches)
    return torch.stack([loss(*parts) for parts in zip(*(b.chunk(groups) for b in batches), strict=True)]).mean()


class Method(ABC):
    """A semi-supervised method.

    For each step the loop calls `draw` (random numbers, on the host) and `loss` (one student pass, at most one
    teacher pass), steps the optimiser, and calls `after_step`. The checkpoint saves and restores `teachers` (no
    gradient) and `partners` (trained beside the student).
    """

    uses_unlabelled = False

    def __init__(self, options: Any, settings: Settings, student: Segmenter) -> None:
        self.options = options  # the method's entry in params.yaml
        self.settings = settings
        self.supervised_loss = losses.on_labelled(settings.loss)
        self.teachers: list[Segmenter] = []
        self.partners: list[Segmenter] = []

    @property
    def threshold(self) -> float | None:
        """The confidence from which a pseudo-label counts; None: the method has no threshold."""
        return None

    def active(self, clock: Clock) -> int | None:
        """The index of the teacher that labels at this step; None: no teacher does."""
        return None

    def labeller(self, student: Segmenter, clock: Clock) -> Segmenter | None:
        """The network that labels the unlabelled images at this step; None: none does."""
        index = self.active(clock)
        return None if index is None else self.teachers[index]

    def mix(self, clock: Clock) -> str | None:
        """The name of the mix at this step, for the history."""
        return None

    def draw(self, clock: Clock, batch: StepBatch, seed: int, device: torch.device, shard: Shard = ALL) -> Any:
        """The random numbers of one step, functions of (seed, step), copied to the device."""
        return None

    @abstractmethod
    def loss(self, student: Segmenter, images: Images, draws: Any, clock: Clock, shard: Shard = ALL) -> Losses:
        """The losses of one shard of a batch; `student` is in train mode, and may be compiled."""

    def after_step(self, student: Segmenter, clock: Clock) -> None:  # noqa: B027
        """Called after the optimiser's step: update the teachers here."""

    @abstractmethod
    def images_seen(self) -> tuple[int, int]:
        """Images a step through networks (with gradient, without), for the cost table."""
