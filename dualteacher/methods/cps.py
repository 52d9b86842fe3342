"""Cross pseudo supervision (Chen et al., CVPR 2021), with CutMix: two networks label images for each other.

The student is the first network. The second, its partner, starts with the student's backbone and a new random head,
since identical networks would learn nothing from each other. Each is trained on the other's hard labels on the CutMix
view, without a threshold. A step costs about twice as much as with one network.

In the paper both networks start untrained and the weight is constant. Here the student is warmed up, and labels from
an untrained head would undo that, so the weight rises from 0 over the first `ramp_steps`, while the labelled images
train the new head.
"""

from __future__ import annotations

import torch

from dualteacher.core import losses, mixing, seeds
from dualteacher.data.loader import Images, StepBatch
from dualteacher.methods import student_pass
from dualteacher.methods.base import ALL, Clock, Losses, Method, Pixels, Shard, StepDraws, by_group
from dualteacher.methods.pseudo_labels import self_label
from dualteacher.models import segmenter
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import CPS as Options
from dualteacher.settings import Settings


class CPS(Method):
    """Trains one partner on the same batches as the student."""

    options: Options
    uses_unlabelled = True

    def __init__(self, options: Options, settings: Settings, student: Segmenter, pixels: Pixels | None = None) -> None:
        super().__init__(options, settings, student, pixels)
        device = next(student.parameters()).device
        drop_path = settings.model.drop_path
        seed = seeds.derive(options.partner_seed, "cps partner")
        partner = segmenter.build(
            settings.model, student.num_classes, None, drop_path=drop_path, seed=seed, channels=student.channels
        )
        if settings.model.freeze == "backbone":
            partner.backbone, partner.pretrained = student.backbone, student.pretrained
        partner.backbone.load_state_dict(student.backbone.state_dict())
        partner.fix_norms(settings.batch.norm == "frozen")
        self.partners = [partner.to(device).train()]

    def labeller(self, student: Segmenter, clock: Clock) -> Segmenter:
        return self.partners[0]

    def mix(self, clock: Clock) -> str:
        return "cutmix"

    def draw(self, clock: Clock, batch: StepBatch, seed: int, device: torch.device, shard: Shard = ALL) -> StepDraws:
        count, _, height, width = batch.unlabelled.shape
        size = (height, width)
        draws = mixing.draw(self.settings.mixing, seed, clock.step, count, 0, size, **shard._asdict())
        return self.step_draws([draws], clock, device)

    def loss(self, student: Segmenter, images: Images, draws: StepDraws, clock: Clock, shard: Shard = ALL) -> Losses:
        pair = (student, self.partners[0])
        features = student_pass.once(student)
        labels = [self_label(network, images, features=features) for network in pair]
        mixed = [mixing.strong_cutmix(one, draws.views[0], self.settings.mixing) for one in labels]
        batch = [images.labelled, mixed[0].image]  # the same mixed images for both networks, with different labels
        supervised, crossed = [], []
        for network, target in zip(pair, reversed(mixed), strict=True):
            known, unknown = self.logits(network, batch, features=features)
            supervised.append(by_group(shard.groups, self.supervised_loss, known, images.label))
            # cross entropy with the other network's hard labels, mean over the valid pixels
            crossed.append(by_group(shard.groups, losses.supervised_loss, unknown, target.label))
        first, second = torch.stack(supervised).sum(), torch.stack(crossed).sum()
        total = first + self.options.unlabelled_weight * (draws.ramp * second)
        parts = {"loss": total, "loss_supervised": first, "loss_mix": second}
        detached = {name: value.detach() for name, value in parts.items()}
        return Losses(total, detached | {"kept": torch.ones_like(detached["loss"])})

    def images_seen(self) -> tuple[int, int]:
        batch = self.settings.batch
        passes = 1 if self.settings.model.freeze == "backbone" else 2
        return passes * (batch.labelled + batch.unlabelled), passes * batch.unlabelled


METHOD = CPS
