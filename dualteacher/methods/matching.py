"""Common base of FixMatch and UniMatch (Sohn et al., NeurIPS 2020; Yang et al., CVPR 2023).

The student labels the weak view itself, and is trained on those labels on strong views of the same image: jitter,
grayscale, blur and CutMix. Loss of a view: mean of CE · [confidence ≥ threshold] over the valid pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dualteacher.core import losses, mixing
from dualteacher.core.mixing import PseudoLabelled
from dualteacher.data.loader import Images, StepBatch
from dualteacher.methods.base import ALL, Clock, Losses, Method, Shard, StepDraws, by_group
from dualteacher.methods.pseudo_labels import self_label
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Matching as Options


class Matching(Method):
    """No teacher; `views` strong views per image."""

    options: Options
    uses_unlabelled = True
    views: int

    @property
    def threshold(self) -> float:
        return self.options.threshold

    def labeller(self, student: Segmenter, clock: Clock) -> Segmenter:
        return student

    def mix(self, clock: Clock) -> str:
        return "cutmix"

    def draw(self, clock: Clock, batch: StepBatch, seed: int, device: torch.device, shard: Shard = ALL) -> StepDraws:
        count, _, height, width = batch.unlabelled.shape
        fixed = partial(mixing.draw, self.settings.mixing, seed, clock.step, count, 0, (height, width))
        views = [fixed(view=view, **shard._asdict()) for view in range(self.views)]
        return self.step_draws(views, clock, device)

    def loss(self, student: Segmenter, images: Images, draws: StepDraws, clock: Clock, shard: Shard = ALL) -> Losses:
        weak = self_label(student, images, self.balance)
        strong = [mixing.strong_cutmix(weak, one, self.settings.mixing) for one in draws.views]
        batch = [images.labelled, *(view.image for view in strong)]
        logits = self.logits(student, batch)
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

    def images_seen(self) -> tuple[int, int]:
        batch = self.settings.batch
        return batch.labelled + self.views * batch.unlabelled, batch.unlabelled
