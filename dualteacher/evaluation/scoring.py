"""Scoring a network on a pack of images."""

from __future__ import annotations

import numpy as np
import torch

from dualteacher import console
from dualteacher.data.pack import Pack
from dualteacher.distributed import World, reduce_sum
from dualteacher.evaluation.confusion import ConfusionMatrix
from dualteacher.evaluation.inference import Predictor, same_size_runs, to_tensor


def score(
    predictor: Predictor, pack: Pack, device: torch.device, batch: int, world: World | None = None, show: bool = False
) -> ConfusionMatrix:
    """Confusion matrix over the pack's images that have masks; memory does not grow with their number.

    The processes of a run share the images, however many there are, and all get the whole matrix.
    """
    world = world or World()
    matrix = ConfusionMatrix(len(pack.classes), device=device)
    with_mask = world.mine([i for i in range(len(pack)) if pack.has_mask(i)])
    runs = list(same_size_runs(pack, with_mask, batch))
    for run in console.progress(runs, "evaluate", unit="batch") if show else runs:
        prediction = predictor(to_tensor([pack.image(i) for i in run], device))
        target = np.stack([mask for i in run if (mask := pack.mask(i)) is not None])
        matrix.update(target, prediction)
    matrix.merge(lambda counts: reduce_sum(counts, world))
    return matrix
