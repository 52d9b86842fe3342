"""UniMatch (Yang et al., CVPR 2023): FixMatch with two strong views and perturbed features of the weak view.

Unlabelled loss: half the mean loss of the two strong views, plus half the loss of the weak view with dropped feature
channels. Each loss is the mean of CE · [confidence ≥ threshold] over the valid pixels.
"""

from __future__ import annotations

import torch.nn.functional as F

from dualteacher.core import mixing
from dualteacher.data.loader import Images
from dualteacher.methods import student_pass
from dualteacher.methods.base import ALL, Clock, Losses, Shard, StepDraws, by_group
from dualteacher.methods.matching import Matching
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import UniMatch as Options


class UniMatch(Matching):
    """Two strong views and feature perturbation in one student pass."""

    options: Options
    views = 2

    def perturb(self, draws: StepDraws) -> student_pass.Perturb:
        """Drops random channels of the weak view, the last part."""
        return {1 + self.views: lambda level: F.dropout2d(level, self.options.feature_dropout)}

    def loss(self, student: Segmenter, images: Images, draws: StepDraws, clock: Clock, shard: Shard = ALL) -> Losses:
        features = student_pass.once(student)
        weak = self.pseudo_label(student, images, features)
        strong = [mixing.strong_cutmix(weak, one, self.settings.mixing) for one in draws.views]
        batch = [images.labelled, *(view.image for view in strong), weak.image]
        logits = self.logits(student, batch, self.perturb(draws), features)
        supervised = by_group(shard.groups, self.supervised_loss, logits[0], images.label)
        perturbed = self.view_loss(logits[-1:], [weak], shard.groups)
        unlabelled = (self.view_loss(logits[1:-1], strong, shard.groups) + perturbed) / 2
        return self.sum_up(supervised, unlabelled, draws.ramp, weak.confidence)

    def images_seen(self) -> tuple[int, int]:
        batch = self.settings.batch
        views = self.views if self.settings.model.freeze == "backbone" else self.views + 1  # the weak view's features
        return batch.labelled + views * batch.unlabelled, batch.unlabelled


METHOD = UniMatch
