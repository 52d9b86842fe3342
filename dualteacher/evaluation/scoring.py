"""Scoring a network on a pack of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dualteacher import console
from dualteacher.data.pack import Pack
from dualteacher.evaluation.confusion import ConfusionMatrix
from dualteacher.evaluation.inference import Predictor, same_size_runs, to_tensor


def score(
    predictor: Predictor, pack: Pack, device: torch.device, batch: int, indices: Sequence[int] | None = None,
    show: bool = False,
) -> ConfusionMatrix:  # fmt: skip
    """Confusion matrix over the pack's images that have masks; memory does not grow with their number."""
    matrix = ConfusionMatrix(len(pack.classes), device=device)
    indices = range(len(pack)) if indices is None else indices
    with_mask = [i for i in indices if pack.has_mask(i)]
    runs = list(same_size_runs(pack, with_mask, batch))
    for run in console.progress(runs, "evaluate", unit="batch") if show else runs:
        prediction = predictor(to_tensor([pack.image(i) for i in run], device))
        target = np.stack([mask for i in run if (mask := pack.mask(i)) is not None])
        matrix.update(target, prediction)
    return matrix
