"""The interface between the training loop and a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from dualteacher.core import balance, losses, views
from dualteacher.core.balance import PseudoLabelBalance
from dualteacher.core.transfer import send
from dualteacher.data.loader import Images, StepBatch
from dualteacher.methods import student_pass
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Settings
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError

if TYPE_CHECKING:  # a warm-up does not depend on the mixes
    from dualteacher.core.mixing import Draws


class Clock(NamedTuple):
    """The current optimiser step, and the number of steps per epoch (`train.epochs_of`)."""

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

    A group is what one GPU processes in the released code: images mix only within their group, and each group's losses
    have their own denominators. A step's loss is the mean over its groups, however they are split into shards and
    processes.
    """

    first: int = 0
    groups: int = 1


class StepDraws(NamedTuple):
    """A step's draws, one per view, and the factor () of its unlabelled losses; see `Method.ramp`."""

    views: list[Draws]
    ramp: Tensor
    channels: Tensor | None = None  # factors of feature channels; see unimatch_v2.py


class Losses(NamedTuple):
    """The loss to minimise, and its terms for the history (detached scalars on the device)."""

    total: Tensor
    parts: dict[str, Tensor]


ALL = Shard()
Pixels = Callable[[], Sequence[int]]  # returns the number of labelled pixels per class


def by_group(groups: int, loss: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """Mean over the groups of `loss`, applied to each group's chunk of the batches."""
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

    def __init__(self, options: Any, settings: Settings, student: Segmenter, pixels: Pixels | None = None) -> None:
        """pixels: called only if a setting needs class balance; None counts all classes as equally frequent."""
        self.options = options  # the method's entry in params.yaml
        if not student.channels.starts_with_rgb:
            settings = settings.model_copy(update={"mixing": views.without_colour(settings.mixing)})
        self.settings = settings
        self.pixels = pixels or (lambda: [1] * student.num_classes)
        self.supervised_loss = losses.on_labelled(settings.loss, _class_weights(settings, student, self.pixels))
        self.balance = _balance(options, student, self.pixels)
        self.teachers: list[Segmenter] = []
        self.partners: list[Segmenter] = []
        student.fix_norms(settings.batch.norm == "frozen")

    @property
    def threshold(self) -> float | None:
        """The lowest confidence at which a pseudo-label counts; None if the method has no threshold."""
        return None

    def active(self, clock: Clock) -> int | None:
        """Index of the teacher that labels at this step; None if none does."""
        return None

    def labeller(self, student: Segmenter, clock: Clock) -> Segmenter | None:
        """The network that labels the unlabelled images at this step; None if none does."""
        index = self.active(clock)
        return None if index is None else self.teachers[index]

    def mix(self, clock: Clock) -> str | None:
        """Name of the mix at this step, for the history."""
        return None

    def key(self, clock: Clock) -> Hashable:
        """All of the clock that `loss` depends on; other numbers of a step belong into its draws.

        Steps of one key run the same kernels, so that one CUDA graph serves them.
        """
        return self.mix(clock), self.active(clock)

    def draw(self, clock: Clock, batch: StepBatch, seed: int, device: torch.device, shard: Shard = ALL) -> Any:
        """Draw the random numbers of one step as a function of (seed, step), and copy them to the device."""
        return None

    def ramp(self, clock: Clock) -> float:
        """Factor of the unlabelled losses: rises linearly from 0 to 1 over the first `ramp_steps` steps."""
        steps: int = self.options.ramp_steps
        return min(1.0, clock.step / steps) if steps else 1.0

    def step_draws(self, views: Sequence[Draws], clock: Clock, device: torch.device) -> StepDraws:
        """The draws of a step's views and its ramp, on the device."""
        ramp = torch.tensor(self.ramp(clock), dtype=torch.float32)
        return StepDraws([view.to(device) for view in views], send(ramp, device))

    @abstractmethod
    def loss(self, student: Segmenter, images: Images, draws: Any, clock: Clock, shard: Shard = ALL) -> Losses:
        """The losses on one shard of a batch. `student` is in train mode and may be compiled."""

    def after_step(self, student: Segmenter, clock: Clock) -> None:  # noqa: B027
        """Update the teachers, after the optimiser's step."""

    def logits(
        self, network: Segmenter, parts: Sequence[Tensor], perturb: student_pass.Perturb = student_pass.NOTHING,
        features: student_pass.Features | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """The logits of a batch's parts, the labelled images first, normalised as `batch.norm` says."""
        return student_pass.logits(network, parts, self.settings.batch.norm, perturb, features)

    @abstractmethod
    def images_seen(self) -> tuple[int, int]:
        """Images per step that pass through networks (with gradient, without), for the cost table."""


def _class_weights(settings: Settings, student: Segmenter, pixels: Pixels) -> Tensor | None:
    """Class weights (C,) of the labelled pixels, on the student's device; logs them."""
    rule = settings.loss.class_weights
    if rule == "none":
        return None
    weights = balance.class_weights(rule, pixels() if isinstance(rule, str) else [])
    assert weights is not None
    if len(weights) != student.num_classes:
        classes = student.num_classes
        raise UserError(f"loss.class_weights has {len(weights)} weights for {classes} classes; give one per class")
    shown = ", ".join(f"{weight:.3g}" for weight in weights.tolist())
    logger.info("loss.class_weights: %s (in class order)", shown)
    return weights.to(next(student.parameters()).device)


def _balance(options: Any, student: Segmenter, pixels: Pixels) -> PseudoLabelBalance | None:
    """Class balance of the pseudo-labels; None unless the method's options ask for it."""
    floor, alignment = getattr(options, "adaptive_floor", None), getattr(options, "alignment", 0.0)
    if floor is None and not alignment:
        return None
    made = PseudoLabelBalance(pixels(), getattr(options, "threshold", 1.0), floor, alignment)
    return made.to(next(student.parameters()).device)
