"""Common base of FixMatch and both UniMatches (Sohn et al., NeurIPS 2020; Yang et al., CVPR 2023 and TPAMI 2025).

The student, or its moving average, labels the weak view. The student is trained on those labels on strong views of the
same image: jitter, grayscale, blur and CutMix. Loss of a view: mean of CE · [confidence ≥ threshold] over the valid
pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dualteacher.core import ema, losses, mixing
from dualteacher.core.mixing import PseudoLabelled
from dualteacher.data.loader import Images, StepBatch
from dualteacher.methods import pseudo_labels, student_pass
from dualteacher.methods.base import ALL, Clock, Losses, Method, Pixels, Shard, StepDraws, by_group
from dualteacher.methods.teaching import make_teacher
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Matching as Options
from dualteacher.settings import Settings


class Matching(Method):
    """`views` strong views per image; at most one teacher, an EMA of the student."""

    options: Options
    uses_unlabelled = True
    views: int

    def __init__(self, options: Options, settings: Settings, student: Segmenter, pixels: Pixels | None = None) -> None:
        super().__init__(options, settings, student, pixels)
        if self.ema_decay is not None:
            self.teachers = [make_teacher(student, "running")]

    @property
    def ema_decay(self) -> float | None:
        """Maximum decay of the teacher's moving average; None if the student labels."""
        return None

    @property
    def threshold(self) -> float:
        return self.options.threshold

    def active(self, clock: Clock) -> int | None:
        return 0 if self.teachers else None

    def labeller(self, student: Segmenter, clock: Clock) -> Segmenter:
        return self.teachers[0] if self.teachers else student

    def mix(self, clock: Clock) -> str:
        return "cutmix"

    def draw(self, clock: Clock, batch: StepBatch, seed: int, device: torch.device, shard: Shard = ALL) -> StepDraws:
        count, _, height, width = batch.unlabelled.shape
        fixed = partial(mixing.draw, self.settings.mixing, seed, clock.step, count, 0, (height, width))
        views = [fixed(view=view, **shard._asdict()) for view in range(self.views)]
        return self.step_draws(views, clock, device)

    def pseudo_label(
        self, student: Segmenter, images: Images, features: student_pass.Features | None = None
    ) -> PseudoLabelled:
        """Labels of the weak views, by the teacher or the student; padding gets IGNORE and confidence 0."""
        if self.teachers:
            return pseudo_labels.label(self.teachers[0], images, self.balance, features)
        return pseudo_labels.self_label(student, images, self.balance, features)

    def perturb(self, draws: StepDraws) -> student_pass.Perturb:
        """Changes the strong views' features (parts 1, …), between backbone and head."""
        return student_pass.NOTHING

    def loss(self, student: Segmenter, images: Images, draws: StepDraws, clock: Clock, shard: Shard = ALL) -> Losses:
        weak = self.pseudo_label(student, images)
        strong = [mixing.strong_cutmix(weak, one, self.settings.mixing) for one in draws.views]
        batch = [images.labelled, *(view.image for view in strong)]
        logits = self.logits(student, batch, self.perturb(draws))
        supervised = by_group(shard.groups, self.supervised_loss, logits[0], images.label)
        unlabelled = self.view_loss(logits[1:], strong, shard.groups)
        return self.sum_up(supervised, unlabelled, draws.ramp, weak.confidence)

    def view_loss(self, logits: Sequence[Tensor], strong: list[PseudoLabelled], groups: int) -> Tensor:
        """Thresholded cross entropy, mean over the views."""
        loss = partial(losses.consistency_loss, threshold=self.options.threshold)
        each = [
            by_group(groups, loss, one, view.label, view.confidence) for one, view in zip(logits, strong, strict=True)
        ]
        return torch.stack(each).mean()

    def sum_up(self, supervised: Tensor, unlabelled: Tensor, ramp: Tensor, confidence: Tensor) -> Losses:
        """The total loss and its terms for the history."""
        total = supervised + self.options.unlabelled_weight * (ramp * unlabelled)
        parts = {"loss": total, "loss_supervised": supervised, "loss_mix": unlabelled}
        detached: dict[str, Any] = {name: value.detach() for name, value in parts.items()}
        return Losses(total, detached | {"kept": losses.kept_share(confidence, self.options.threshold)})

    def after_step(self, student: Segmenter, clock: Clock) -> None:
        """Update the teacher, which starts as a copy of the student."""
        if self.ema_decay is not None:
            ema.update(self.teachers[0], student, ema.decay(clock.step, self.ema_decay))

    def images_seen(self) -> tuple[int, int]:
        batch = self.settings.batch
        return batch.labelled + self.views * batch.unlabelled, batch.unlabelled
