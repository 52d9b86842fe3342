"""Common base of the methods with EMA teachers: pseudo-labels, alternating mixes, implicit consistency.

A step takes one teacher pass and one student pass, with labelled, mixed and strong images in one batch (the released
code takes two passes each); with `batch.norm: by_view` one student pass for each of the three.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dualteacher.core import ema, losses, mixing
from dualteacher.core.mixing import PseudoLabelled
from dualteacher.data.loader import Images, StepBatch
from dualteacher.methods import pseudo_labels
from dualteacher.methods.base import ALL, Clock, Losses, Method, Pixels, Shard, StepDraws, by_group
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Settings
from dualteacher.settings import Teacher as TeacherSettings

MIX_LOSS = {  # for options.pixels == "share"
    "cutmix": losses.cutmix_loss,
    "classmix": losses.classmix_loss,
    "copy_paste": losses.classmix_loss,
}


class Teaching(Method):
    """`number` EMA teachers. A subclass defines which one is active, and its decay."""

    uses_unlabelled = True
    number = 1

    def __init__(
        self, options: TeacherSettings, settings: Settings, student: Segmenter, pixels: Pixels | None = None
    ) -> None:
        super().__init__(options, settings, student, pixels)
        self.options: TeacherSettings = options
        self.teachers = [make_teacher(student, options.normalisation) for _ in range(self.number)]
        if "copy_paste" in options.mixes:
            self.rarity = mixing.rarity(self.pixels())

    @property
    def threshold(self) -> float:
        return self.options.threshold

    @abstractmethod
    def active(self, clock: Clock) -> int: ...

    @abstractmethod
    def decay(self, clock: Clock) -> float:
        """EMA decay of the active teacher after this step."""

    def labeller(self, student: Segmenter, clock: Clock) -> Segmenter:
        return self.teachers[self.active(clock)]

    def mix(self, clock: Clock) -> str:
        return self.options.mixes[clock.epoch % len(self.options.mixes)]

    def draw(self, clock: Clock, batch: StepBatch, seed: int, device: torch.device, shard: Shard = ALL) -> StepDraws:
        count, _, height, width = batch.unlabelled.shape
        which, size = (self.settings.mixing, seed, clock.step, count), (height, width)
        views = [mixing.draw(*which, self.teachers[0].num_classes, size, **shard._asdict())]
        if self.mix(clock) == "copy_paste":
            views.append(mixing.draw_copy_paste(*which, self.rarity, size, len(batch.labelled), **shard._asdict()))
        return self.step_draws(views, clock, device)

    def pseudo_label(self, images: Images, clock: Clock) -> PseudoLabelled:
        """The active teacher's labels for the weak views; padding gets IGNORE and confidence 0."""
        return pseudo_labels.label(self.teachers[self.active(clock)], images, self.balance)

    def loss(self, student: Segmenter, images: Images, draws: StepDraws, clock: Clock, shard: Shard = ALL) -> Losses:
        options = self.options
        weak = self.pseudo_label(images, clock)
        strong = weak._replace(image=mixing.strong_view(weak.image, draws.views[0]))
        name = self.mix(clock)
        mixed = self.mixed(name, weak, strong, images, draws)

        parts = [images.labelled, mixed.image]
        if options.consistency_weight > 0:
            parts.append(strong.image)
        logits = self.logits(student, parts)

        groups, threshold = shard.groups, options.threshold
        supervised = by_group(groups, self.supervised_loss, logits[0], images.label)
        # "confident": mean of CE · [confidence ≥ threshold], as in the consistency loss
        mix_loss = partial(
            losses.consistency_loss if options.pixels == "confident" else MIX_LOSS[name], threshold=threshold
        )
        mix = by_group(groups, mix_loss, logits[1], mixed.label, mixed.confidence)
        consistency = logits[0].new_zeros(())
        if options.consistency_weight > 0:
            consistent = partial(losses.consistency_loss, threshold=threshold)
            consistency = by_group(groups, consistent, logits[2], weak.label, weak.confidence)
        ramped = draws.ramp * mix, draws.ramp * consistency
        total = supervised + options.unlabelled_weight * ramped[0] + options.consistency_weight * ramped[1]
        return Losses(total, self._parts(total, supervised, mix, consistency, weak.confidence))

    def mixed(
        self, name: str, weak: PseudoLabelled, strong: PseudoLabelled, images: Images, draws: StepDraws
    ) -> PseudoLabelled:
        """The mixed images of the mix `name`."""
        if name == "cutmix":
            return mixing.cutmix(weak, draws.views[0], self.settings.mixing)
        if name == "classmix":
            return mixing.classmix(strong, draws.views[0])
        return mixing.copy_paste(strong, images.labelled, images.label, draws.views[1])

    def _parts(
        self, total: Tensor, supervised: Tensor, mix: Tensor, consistency: Tensor, confidence: Tensor
    ) -> dict[str, Tensor]:
        return {
            "loss": total.detach(),
            "loss_supervised": supervised.detach(),
            "loss_mix": mix.detach(),
            "loss_consistency": consistency.detach(),
            "kept": losses.kept_share(confidence, self.options.threshold),
        }

    def after_step(self, student: Segmenter, clock: Clock) -> None:
        """Update the active teacher only."""
        ema.update(self.teachers[self.active(clock)], student, self.decay(clock))

    def images_seen(self) -> tuple[int, int]:
        views = 2 if self.options.consistency_weight > 0 else 1
        batch = self.settings.batch
        return batch.labelled + views * batch.unlabelled, batch.unlabelled


def make_teacher(student: Segmenter, normalisation: str) -> Segmenter:
    """A copy of the student in eval mode, without gradient. It shares what is frozen (`model.freeze`).

    normalisation: statistics of batch normalisation. "running": the running ones, which the EMA averages too. "batch":
    those of the current batch, as in the released code; the buffers stay unchanged.
    """
    shared = student.frozen_parts()
    teacher = copy.deepcopy(student, {id(part): part for part in shared}).requires_grad_(False).eval()
    if normalisation == "batch":
        fixed = {module for part in shared if isinstance(part, nn.Module) for module in part.modules()}
        for module in teacher.modules():
            if isinstance(module, _BatchNorm) and module not in fixed:
                module.train()
                module.momentum = 0.0
    return teacher
