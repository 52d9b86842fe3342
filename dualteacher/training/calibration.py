"""Calibration of pseudo-labels: accuracy by confidence, against the probe images' held-back masks.

Equal-width bins, as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. The report computes the
expected calibration error from the counts, which can be summed over runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from dualteacher.core.labels import IGNORE
from dualteacher.core.transfer import send
from dualteacher.data.pack import Pack
from dualteacher.inference.predictor import Predictor, same_size_runs, to_tensor
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Inference
from dualteacher.training.diagnostics import held_back_masks

BINS = 20  # 0.05 wide, so the usual threshold of 0.95 is an edge


class Bins:
    """Pixels, correct labels and summed confidence per confidence bin, on the device."""

    def __init__(self, device: torch.device) -> None:
        self.counts = torch.zeros((3, BINS), dtype=torch.float64, device=device)

    def add(self, label: Tensor, confidence: Tensor, truth: Tensor) -> None:
        """Add pixels: label, confidence in [0, 1] and truth, all of one shape. Skips pixels whose truth is IGNORE."""
        known = truth != IGNORE
        where = (confidence * BINS).long().clamp_(0, BINS - 1).flatten()
        for row, values in zip(self.counts, (known, known & (label == truth), known * confidence), strict=True):
            row.scatter_add_(0, where, values.flatten().double())

    def table(self) -> pd.DataFrame:
        """One row per bin: low, high (its edges), pixels, right (correct pixels), confidence (sum)."""
        pixels, right, confidence = self.counts.cpu().numpy()
        edges = [i / BINS for i in range(BINS + 1)]
        return pd.DataFrame(
            {
                **{"low": edges[:-1], "high": edges[1:]},
                **{"pixels": pixels.astype("int64"), "right": right.astype("int64"), "confidence": confidence},
            }
        )


@torch.no_grad()
def measure(
    network: Segmenter, pack: Pack, images: Sequence[int], inference: Inference, device: torch.device
) -> pd.DataFrame:
    """Bin the network's predictions for whole images by confidence. Restores its train or eval mode."""
    bins, training = Bins(device), network.training
    if training:  # a teacher is in eval mode already; eval() would undo its normalisation by batch
        network.eval()
    predictor = Predictor(network, inference)
    for run in same_size_runs(pack, images, inference.batch):
        pixels = to_tensor([pack.image(i) for i in run], device)
        size = (pixels.shape[2], pixels.shape[3])
        label, confidence = predictor.one_scale(pixels)
        bins.add(label, confidence, send(held_back_masks(pack, run, size), device))
    if training:
        network.train()
    return bins.table()
