"""Streaming confusion matrix: every score of a validation set from C² integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualteacher.core.labels import IGNORE


class ConfusionMatrix:
    """Counts (target, prediction) pixel pairs on the device; memory does not grow with the images.

    `counts` is (C, C) int64, row = target, column = prediction. Pixels whose target is `ignore_index`
    do not count; a target outside 0 … C-1 (and not ignored) raises when the scores are read.
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORE, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        # two cells more collect what must not be there, so that checking needs no sync, and what is ignored
        self._flat = torch.zeros(num_classes * num_classes + 2, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, target: Tensor | np.ndarray, prediction: Tensor | np.ndarray) -> None:
        """Add images: target and prediction of the same shape, class indices of any integer type."""
        device, c = self._flat.device, self.num_classes
        target, prediction = (torch.as_tensor(each).to(device).reshape(-1) for each in (target, prediction))
        if target.shape != prediction.shape:
            raise ValueError(f"target has {target.numel()} pixels, prediction {prediction.numel()}")
        if device.type == "cpu":
            from dualteacher.core.upsampling import numba_kernels

            numba_kernels.count_pairs(target.numpy(), prediction.numpy(), c, self.ignore_index, self._flat.numpy())
            return
        # a long for a pair of pixels moves more memory than it is worth
        target, prediction = target.int(), prediction.int()
        inside = (target >= 0) & (target < c) & (prediction >= 0) & (prediction < c)
        index = torch.where(inside, target * c + prediction, c * c)
        index = torch.where(target == self.ignore_index, c * c + 1, index)
        # `bincount` would wait for the number of bins
        self._flat.scatter_add_(0, index.long(), torch.ones_like(index, dtype=torch.int64))

    def merge(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Replace the counts by what `reduce` makes of them, such as their sum over processes."""
        self._flat = reduce(self._flat)

    @property
    def counts(self) -> np.ndarray:
        """(C, C) int64 on the CPU."""
        flat = self._flat.cpu().numpy()
        if flat[-2]:
            raise ValueError(
                f"{flat[-2]} pixels have a class outside 0 … {self.num_classes - 1} (and not {self.ignore_index})"
            )
        return flat[:-2].reshape(self.num_classes, self.num_classes)

    def swallowed(self) -> float:
        """Of the pixels that belong to other classes, the share that the greediest class takes; NaN without any.

        1 where one class is predicted everywhere, whatever its own share of the images.
        """
        counts = self.counts.astype(np.float64)
        others = counts.sum() - counts.sum(1)
        taken = counts.sum(0) - np.diag(counts)
        there = others > 0
        return float((taken[there] / others[there]).max()) if there.any() else float("nan")

    def scores(self) -> dict[str, Any]:
        """miou, pixel_accuracy, mean_accuracy (fractions), class_iou and class_accuracy (C,) arrays.

        The means run over the classes that the ground truth shows, as in the released evaluation. A class that
        is only predicted has IoU 0 (but does not count), one that is nowhere has NaN; so has the accuracy of
        every class that the ground truth lacks.
        """
        counts = self.counts.astype(np.float64)
        hit = np.diag(counts)
        in_target, in_prediction = counts.sum(1), counts.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            union = in_target + in_prediction - hit
            iou = np.where(union > 0, hit / union, np.nan)
            accuracy = np.where(in_target > 0, hit / in_target, np.nan)
        total = counts.sum()
        present = in_target > 0
        return {
            "miou": float(iou[present].mean()) if present.any() else float("nan"),
            "pixel_accuracy": float(hit.sum() / total) if total else float("nan"),
            "mean_accuracy": float(accuracy[present].mean()) if present.any() else float("nan"),
            "class_iou": iou,
            "class_accuracy": accuracy,
        }
