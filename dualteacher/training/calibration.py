"""Calibration of pseudo-labels: accuracy by confidence, measured on the probe's held-back masks.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, with equal-width bins. The report computes
the expected calibration error from the counts, so those of several runs can be added up.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from dualteacher.core.labels import IGNORE
from dualteacher.data.pack import Pack
from dualteacher.inference.predictor import Predictor, same_size_runs, to_tensor
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Inference
from dualteacher.training.diagnostics import held_back_masks

BINS = 20  # 0.05 wide, so the usual threshold 0.95 is a border


class Bins:
    """Pixels, correct labels and summed confidence by bin of confidence, on the device."""

    def __init__(self, device: torch.device) -> None:
        self.counts = torch.zeros((3, BINS), dtype=torch.float64, device=device)

    def add(self, label: Tensor, confidence: Tensor, truth: Tensor) -> None:
        """label, confidence in [0, 1] and truth of one shape; pixels whose truth is IGNORE do not count."""
        known = truth != IGNORE
        where = (confidence * BINS).long().clamp_(0, BINS - 1).flatten()
        for row, values in zip(self.counts, (known, known & (label == truth), known * confidence), strict=True):
            row.scatter_add_(0, where, values.flatten().double())

    def table(self) -> pd.DataFrame:
        """One row a bin: low, high (its borders), pixels, right, confidence (the sum)."""
        pixels, right, confidence = self.counts.cpu().numpy()
        borders = [i / BINS for i in range(BINS + 1)]
        return pd.DataFrame(
            {
                **{"low": borders[:-1], "high": borders[1:]},
                **{"pixels": pixels.astype("int64"), "right": right.astype("int64"), "confidence": confidence},
            }
        )


@torch.no_grad()
def measure(
    network: Segmenter, pack: Pack, images: Sequence[int], inference: Inference, device: torch.device
) -> pd.DataFrame:
    """Bin the network's labels for whole images by confidence; its mode is restored."""
    bins, training = Bins(device), network.training
    if training:  # a teacher's mode must stay as it is (normalisation by batch)
        network.eval()
    predictor = Predictor(network, inference)
    for run in same_size_runs(pack, images, inference.batch):
        pixels = to_tensor([pack.image(i) for i in run], device)
        size = (pixels.shape[2], pixels.shape[3])
        label, confidence = predictor.one_scale(pixels)
        bins.add(label, confidence, held_back_masks(pack, run, size).to(device))
    if training:
        network.train()
    return bins.table()
