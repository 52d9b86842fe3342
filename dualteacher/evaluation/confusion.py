"""Streaming confusion matrix, and the scores computed from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualteacher.core.labels import IGNORE

COPIES = 32  # of each count on a GPU: neighbouring pixels mostly have one class, and would queue up for its one count


class ConfusionMatrix:
    """Counts (target, prediction) pixel pairs on the device.

    `counts` is (C, C) int64, row = target, column = prediction. Skips pixels whose target is `ignore_index`. Any other
    class outside 0 … C - 1 raises ValueError when the counts are read.
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORE, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        # two extra bins: invalid pairs (so that the check needs no sync) and ignored pixels
        self._copies = 1 if torch.device(device).type == "cpu" else COPIES
        bins = num_classes * num_classes + 2
        self._flat = torch.zeros(bins * self._copies, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, target: Tensor | np.ndarray, prediction: Tensor | np.ndarray) -> None:
        """Add pixels: target and prediction of one shape, class indices of any integer type."""
        device, c = self._flat.device, self.num_classes
        target, prediction = (torch.as_tensor(each).to(device).reshape(-1) for each in (target, prediction))
        if target.shape != prediction.shape:
            raise ValueError(f"target has {target.numel()} pixels, prediction {prediction.numel()}")
        if device.type == "cpu":
            from dualteacher.core.upsampling import numba_kernels

            numba_kernels.count_pairs(target.numpy(), prediction.numpy(), c, self.ignore_index, self._flat.numpy())
            return
        self._scatter(target, prediction)

    def _scatter(self, target: Tensor, prediction: Tensor) -> None:
        """`update` in torch operations. Not bincount: it waits for the device."""
        c = self.num_classes
        # int32 halves the memory traffic
        target, prediction = target.int(), prediction.int()
        inside = (target >= 0) & (target < c) & (prediction >= 0) & (prediction < c)
        index = torch.where(inside, target * c + prediction, c * c)
        index = torch.where(target == self.ignore_index, c * c + 1, index)
        copy = torch.arange(len(index), device=index.device).remainder_(self._copies)
        self._flat.scatter_add_(0, copy.add_(index, alpha=self._copies), torch.ones_like(copy))

    def merge(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Replace the counts by reduce(counts), e.g. their sum over processes."""
        self._flat = reduce(self._flat)

    @property
    def counts(self) -> np.ndarray:
        """(C, C) int64 on the CPU."""
        flat = self._flat.view(-1, self._copies).sum(1).cpu().numpy()
        if flat[-2]:
            raise ValueError(
                f"{flat[-2]} pixels have a class outside 0 … {self.num_classes - 1} (other than {self.ignore_index})"
            )
        return flat[:-2].reshape(self.num_classes, self.num_classes)

    def swallowed(self) -> float:
        """Largest share, over classes, of the other classes' pixels that are predicted as that class.

        1 if one class is predicted everywhere, whatever its own share of the pixels. NaN without pixels.
        """
        counts = self.counts.astype(np.float64)
        others = counts.sum() - counts.sum(1)
        taken = counts.sum(0) - np.diag(counts)
        there = others > 0
        return float((taken[there] / others[there]).max()) if there.any() else float("nan")

    def scores(self) -> dict[str, Any]:
        """miou, pixel_accuracy, mean_accuracy (fractions), class_iou and class_accuracy (C,) arrays.

        Means are over the classes present in the ground truth, as in the released evaluation. A class that is only
        predicted has IoU 0 and accuracy NaN; a class that never occurs has NaN for both. Neither counts in the means.
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
