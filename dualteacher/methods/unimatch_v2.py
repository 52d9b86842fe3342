"""UniMatch V2 (Yang et al., TPAMI 2025): an EMA teacher, and two strong views with complementary channel dropout.

In a random share of the images, half the feature channels are dropped in the first strong view, the other half in the
second; the remaining channels are doubled. Unlabelled loss: mean loss of the two views, as in FixMatch.

The paper describes the dropout for one feature map of a ViT. Derived here: an image has one mask for all feature maps,
as long as the widest; a narrower map takes its first channels. Labelled images are not perturbed. The paper halves the
sum of both losses, which AdamW does not notice; here the sum is not halved, as in the other methods.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from dualteacher.core import seeds
from dualteacher.core.transfer import send
from dualteacher.data.loader import StepBatch
from dualteacher.methods import student_pass
from dualteacher.methods.base import ALL, Clock, Pixels, Shard, StepDraws
from dualteacher.methods.matching import Matching
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Settings
from dualteacher.settings import UniMatchV2 as Options


class UniMatchV2(Matching):
    """Two strong views in one student pass."""

    options: Options
    views = 2

    def __init__(self, options: Options, settings: Settings, student: Segmenter, pixels: Pixels | None = None) -> None:
        super().__init__(options, settings, student, pixels)
        self.width = max(student.widths)

    @property
    def ema_decay(self) -> float:
        return self.options.ema_decay

    def draw(self, clock: Clock, batch: StepBatch, seed: int, device: torch.device, shard: Shard = ALL) -> StepDraws:
        channels = draw_channels(seed, clock.step, len(batch.unlabelled), self.width, self.options.dropped, shard)
        return super().draw(clock, batch, seed, device, shard)._replace(channels=send(channels, device))

    def perturb(self, draws: StepDraws) -> student_pass.Perturb:
        assert draws.channels is not None
        return {
            1: partial(scale, factors=draws.channels),
            2: partial(scale, factors=2 - draws.channels),
        }


def draw_channels(seed: int, step: int, batch: int, width: int, dropped: float, shard: Shard) -> Tensor:
    """Factors (B, width) of the first view's channels: 0 or 2 at random, or 1 throughout in images that are spared.

    dropped: share of each group's images that are not spared, rounded up.
    """
    first, groups = shard
    each = batch // groups
    rngs = (seeds.generator(seed, "channels", step, first + i) for i in range(batch))
    kept = np.stack([rng.random(width) < 0.5 for rng in rngs])
    starts = (seeds.generator(seed, "spared", step, first + start) for start in range(0, batch, each))
    spared = np.concatenate([rng.permutation(each) >= dropped * each for rng in starts])
    return torch.from_numpy(np.where(spared[:, None], 1.0, 2.0 * kept)).float()


def scale(level: Tensor, factors: Tensor) -> Tensor:
    """A feature map (B, C, h, w) times the first C of its images' factors (B, ≥ C)."""
    return level * factors[:, : level.shape[1], None, None].to(level.dtype)


METHOD = UniMatchV2
