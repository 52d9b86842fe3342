"""What the training loop asks of a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dualteacher.core import losses
from dualteacher.data.loader import Batch, Images
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Settings


class Clock(NamedTuple):
    """Where training stands: optimiser step, epoch (pass over the labelled images), step within it."""

    step: int
    epoch: int
    step_in_epoch: int


class Piece(NamedTuple):
    """Which part of a step's global batch is at hand: its first unlabelled image, and how many groups it is.

    A group is what the release had on one GPU: its images mix among themselves and its losses have their own
    denominators. A step's loss is the mean over its groups, however they are spread over pieces and processes.
    """

    first: int = 0
    groups: int = 1


class Losses(NamedTuple):
    """The loss to descend, and its parts as detached scalars on the device, for the history."""

    total: Tensor
    parts: dict[str, Tensor]


ALL = Piece()


def by_group(groups: int, loss: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """Mean over the groups of loss(*the group's part of each batch)."""
    if groups == 1:
        return loss(*batches)
    return torch.stack([loss(*parts) for parts in zip(*(b.chunk(groups) for b in batches), strict=True)]).mean()


class Method:
    """A semi-supervised method; this base is the supervised one.

    The loop calls, for each step, `draw` (the method's random numbers, on the host), `loss` (one student
    pass, at most one teacher pass), steps the optimiser, then calls `after_step`. `teachers` (no gradient)
    and `partners` (trained beside the student) are saved and restored by the checkpoint.
    """

    uses_unlabelled = False

    def __init__(self, own: Any, settings: Settings, student: Segmenter) -> None:
        self.own = own
        self.settings = settings
        self.supervised_loss = losses.on_labelled(settings.loss)
        self.teachers: list[Segmenter] = []
        self.partners: list[Segmenter] = []

    def active(self, clock: Clock) -> int | None:
        """Index of the teacher that labels at this time."""
        return None

    def labeller(self, student: Segmenter, clock: Clock) -> Segmenter | None:
        """The network whose labels the student learns on unlabelled images at this time; None: it learns none."""
        index = self.active(clock)
        return None if index is None else self.teachers[index]

    def mix(self, clock: Clock) -> str | None:
        """Name of the mix applied at this time."""
        return None

    def draw(self, clock: Clock, batch: Batch, seed: int, device: torch.device, piece: Piece = ALL) -> Any:
        """The random numbers of one step, functions of (seed, step), on their way to the device."""
        return None

    def loss(self, student: Segmenter, images: Images, draws: Any, clock: Clock, piece: Piece = ALL) -> Losses:
        """Losses of one piece of a batch; `student` is in train mode, and perhaps compiled."""
        supervised = by_group(piece.groups, self.supervised_loss, student(images.labelled), images.label)
        return Losses(supervised, {"loss": supervised.detach(), "loss_supervised": supervised.detach()})

    def after_step(self, student: Segmenter, clock: Clock) -> None:
        """Called after the optimiser's step: teachers follow here."""

    def images_seen(self) -> tuple[int, int]:
        """(images through the student with gradient, images through teachers) a step, for the cost table."""
        return self.settings.batch.labelled, 0
