"""The baseline: trains on the labelled images only, for as many steps as the other methods."""

from __future__ import annotations

from typing import Any

from dualteacher.data.loader import Images
from dualteacher.methods.base import ALL, Clock, Losses, Method, Shard, by_group
from dualteacher.models.segmenter import Segmenter


class Supervised(Method):
    """No unlabelled images. Also used for the warm-up."""

    def loss(self, student: Segmenter, images: Images, draws: Any, clock: Clock, shard: Shard = ALL) -> Losses:
        supervised = by_group(shard.groups, self.supervised_loss, student(images.labelled), images.label)
        return Losses(supervised, {"loss": supervised.detach(), "loss_supervised": supervised.detach()})

    def images_seen(self) -> tuple[int, int]:
        return self.settings.batch.labelled, 0


METHOD = Supervised
