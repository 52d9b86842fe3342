"""What methods with EMA teachers share: pseudo-labels, a mix taken in turn, implicit consistency.

One teacher pass and one student pass a step: the student sees labelled, mixed and strong images as one
batch (the released code runs two of each).
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from dualteacher.core import ema, losses, mixing
from dualteacher.core.mixing import Draws, Labelled
from dualteacher.data.loader import Batch, Images
from dualteacher.methods import pseudo_labels
from dualteacher.methods.base import ALL, Clock, Losses, Method, Piece, by_group
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Settings
from dualteacher.settings import Teacher as TeacherSettings

MIX_LOSS = {"cutmix": losses.cutmix_loss, "classmix": losses.classmix_loss}


class Teaching(Method):
    """`number` EMA teachers; subclasses say who is active when, and how the average decays."""

    uses_unlabelled = True
    number = 1

    def __init__(self, own: TeacherSettings, settings: Settings, student: Segmenter) -> None:
        super().__init__(own, settings, student)
        self.own: TeacherSettings = own
        self.teachers = [make_teacher(student, own.normalisation) for _ in range(self.number)]

    def mix(self, clock: Clock) -> str:
        return self.own.mixes[clock.epoch % len(self.own.mixes)]

    def draw(self, clock: Clock, batch: Batch, seed: int, device: torch.device, piece: Piece = ALL) -> Draws:
        count, _, height, width = batch.unlabelled.shape
        classes = self.teachers[0].num_classes
        draws = mixing.draw(self.settings.mixing, seed, clock.step, count, classes, (height, width), **piece._asdict())
        return draws.to(device)

    def pseudo_label(self, images: Images, clock: Clock) -> Labelled:
        """The active teacher's labels for the weak views; padding is ignored and has no confidence."""
        index = self.active(clock)
        assert index is not None
        return pseudo_labels.label(self.teachers[index], images)

    def loss(self, student: Segmenter, images: Images, draws: Draws, clock: Clock, piece: Piece = ALL) -> Losses:
        own = self.own
        weak = self.pseudo_label(images, clock)
        strong = weak._replace(image=mixing.strong_view(weak.image, draws))
        name = self.mix(clock)
        cutmix = name == "cutmix"
        mixed = mixing.cutmix(weak, draws, self.settings.mixing) if cutmix else mixing.classmix(strong, draws)

        parts = [images.labelled, mixed.image]
        if own.consistency_weight > 0:
            parts.append(strong.image)
        logits = student(torch.cat(parts)).split([len(part) for part in parts])

        groups, threshold = piece.groups, own.threshold
        supervised = by_group(groups, self.supervised_loss, logits[0], images.label)
        mix_loss = partial(MIX_LOSS[name], threshold=threshold)
        mix = by_group(groups, mix_loss, logits[1], mixed.label, mixed.confidence)
        consistency = logits[0].new_zeros(())
        if own.consistency_weight > 0:
            consistent = partial(losses.consistency_loss, threshold=threshold)
            consistency = by_group(groups, consistent, logits[2], weak.label, weak.confidence)
        total = supervised + own.unlabelled_weight * mix + own.consistency_weight * consistency
        return Losses(total, self._parts(total, supervised, mix, consistency, weak.confidence))

    def _parts(
        self, total: Tensor, supervised: Tensor, mix: Tensor, consistency: Tensor, confidence: Tensor
    ) -> dict[str, Tensor]:
        return {
            "loss": total.detach(),
            "loss_supervised": supervised.detach(),
            "loss_mix": mix.detach(),
            "loss_consistency": consistency.detach(),
            "kept": losses.kept_share(confidence, self.own.threshold),
        }

    def decay(self, clock: Clock) -> float:
        """How much of itself the active teacher keeps after this step."""
        raise NotImplementedError

    def after_step(self, student: Segmenter, clock: Clock) -> None:
        """Only the active teacher moves."""
        index = self.active(clock)
        assert index is not None
        ema.update(self.teachers[index], student, self.decay(clock))

    def images_seen(self) -> tuple[int, int]:
        views = 2 if self.own.consistency_weight > 0 else 1
        batch = self.settings.batch
        return batch.labelled + views * batch.unlabelled, batch.unlabelled


def make_teacher(student: Segmenter, normalisation: str) -> Segmenter:
    """A copy of the student that labels: no gradient, no dropout, full depth.

    normalisation 'running' uses the running statistics (which the average carries along), 'batch' those
    of the images at hand, as released; the buffers are then left alone.
    """
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    if normalisation == "batch":
        for module in teacher.modules():
            if isinstance(module, _BatchNorm):
                module.train()
                module.momentum = 0.0
    return teacher
