"""Class balance: class weights for the labelled pixels, and class-balanced pseudo-labels.

`pixels` are the pixel counts of the labelled training images, (C,) in class order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = 10.0  # limit of class weights and alignment factors, so that a tiny class cannot dominate the loss
KEEP = 0.99  # decay of the running sums per step


def class_weights(rule: str | Sequence[float], pixels: Sequence[int]) -> Tensor | None:
    """Class weights (C,) float32, scaled to mean 1 over the labelled pixels, then limited to LARGEST. None for "none".

    rule: "inverse_sqrt", 1/√share; "effective_number", 1/(1 - βⁿ) with β = 1 - 1/N for n of N pixels (Cui et al., CVPR
    2019); "none"; or the weights themselves, returned unscaled. A class without pixels has weight 1.
    """
    if rule == "none":
        return None
    if not isinstance(rule, str):
        return torch.tensor(rule, dtype=torch.float32)
    count = torch.tensor(pixels, dtype=torch.float64)
    share = count / count.sum().clamp(min=1)
    present = share > 0
    if rule == "inverse_sqrt":
        raw = share.rsqrt()
    else:
        raw = 1 / -torch.expm1(count * torch.log1p(-1 / count.sum().clamp(min=2)))
    mean = (share * raw)[present].sum()
    return torch.where(present, raw / mean, 1.0).clamp(max=LARGEST).float()


class PseudoLabelBalance(nn.Module):
    """Distribution alignment and per-class thresholds, from running statistics of the labelling network.

    Alignment multiplies each class's probability by (labelled share / predicted share) ** alignment and renormalises
    (distribution alignment as in ReMixMatch, with an exponent). Adaptive thresholds are the mean confidence of each
    predicted class, clamped to [floor, threshold] (as in FreeMatch, per class).

    `sums` (3, C), decayed by KEEP per step: probability, confidence by predicted class, pixels by predicted class.
    `pending` collects the current step's statistics until `step`, so that all shards of a step use the same `sums`.
    """

    sums: Tensor
    pending: Tensor
    labelled: Tensor

    def __init__(self, pixels: Sequence[int], threshold: float, floor: float | None, alignment: float) -> None:
        super().__init__()
        count = torch.tensor(pixels, dtype=torch.float32)
        self.threshold, self.floor, self.alignment = threshold, floor, alignment
        self.register_buffer("labelled", count / count.sum().clamp(min=1), persistent=False)
        self.register_buffer("sums", torch.zeros(3, len(count)))
        self.register_buffer("pending", torch.zeros(3, len(count)), persistent=False)

    def observe(self, logits: Tensor, inside: Tensor) -> None:
        """Add the predictions of logits (B, C, h, w), except on padding; inside (B, H, W) bool is False there."""
        known = F.interpolate(inside[:, None].float(), logits.shape[2:], mode="nearest")
        probability = logits.float().softmax(1)
        confidence, label = probability.max(1, keepdim=True)
        predicted = torch.zeros_like(probability).scatter_(1, label, known)
        for place, values in enumerate((probability * known, predicted * confidence, predicted)):
            self.pending[place] += values.sum((0, 2, 3))

    def step(self) -> None:
        """Merge the step's statistics into the running sums."""
        self.sums.mul_(KEEP).add_(self.pending, alpha=1 - KEEP)
        self.pending.zero_()

    def align(self, logits: Tensor) -> Tensor:
        """Aligned logits (B, C, h, w). Unchanged before the first step, and for classes without labelled pixels.

        The ratio of shares is clamped to [1/LARGEST, LARGEST].
        """
        if not self.alignment:
            return logits
        predicted = self.sums[0] / self.sums[0].sum()
        factor = (self.labelled / predicted.clamp(min=1e-6)).clamp(1 / LARGEST, LARGEST)
        known = (self.labelled > 0) & (self.sums[0].sum() > 0)
        return logits + torch.where(known, self.alignment * factor.log(), 0.0).to(logits.dtype)[:, None, None]

    def thresholds(self) -> Tensor:
        """Threshold per class, (C,); the fixed threshold for classes not predicted so far."""
        fixed = torch.full_like(self.labelled, self.threshold)
        if self.floor is None:
            return fixed
        mean = self.sums[1] / self.sums[2].clamp(min=1e-12)
        return torch.where(self.sums[2] > 0, mean.clamp(self.floor, self.threshold), fixed)

    def scale(self, label: Tensor, confidence: Tensor) -> Tensor:
        """Confidence (B, H, W), scaled so that it reaches `threshold` where it reaches its class's own threshold.

        label (B, H, W): class indices, no IGNORE.
        """
        if self.floor is None:
            return confidence
        own = self.thresholds()[label]
        # clamped on both sides of the threshold: rounding must not change which pixels reach it
        scaled = (confidence * (self.threshold / own)).clamp(max=1.0)
        return torch.where(
            confidence >= own, scaled.clamp(min=self.threshold), scaled.clamp(max=self.threshold * 0.9999)
        )
