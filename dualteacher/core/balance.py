"""Class balance: weights for the labelled pixels, and pseudo-labels that do not unlearn rare classes.

Pixel counts are those of the labelled training images, (C,) in class order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = 10.0  # weight of a class, and factor of alignment: a class of a few pixels must not rule the loss
KEEP = 0.99  # of the running sums, a step


def class_weights(rule: str | Sequence[float], pixels: Sequence[int]) -> Tensor | None:
    """One weight a class, (C,) float32, with mean 1 over the labelled pixels before the limit; None: no weights.

    rule: inverse_sqrt, 1/√share; effective_number, 1/(1 - βⁿ) with β = 1 - 1/N for n of N pixels (Cui et al., CVPR
    2019); none; or the weights themselves, which are taken as they are. A class without pixels has weight 1.
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
    """Running statistics of the labelling network's predictions, and what follows from them.

    Alignment multiplies each class's probability by (labelled share / predicted share) ** alignment, renormalised
    (ReMixMatch's distribution alignment, with an exponent). Adaptive thresholds replace the one threshold by each
    class's mean confidence (FreeMatch's self-adaptive threshold, per predicted class), between `floor` and the
    threshold itself.

    `sums` (3, C), decayed by KEEP a step: probability, confidence by predicted class, pixels by predicted class.
    A step's own statistics wait in `pending` until `step`, so all its shards see the same numbers.
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
        """Count the predictions (B, C, h, w) of the pixels that are no padding, inside (B, H, W) bool."""
        known = F.interpolate(inside[:, None].float(), logits.shape[2:], mode="nearest")
        probability = logits.float().softmax(1)
        confidence, label = probability.max(1, keepdim=True)
        predicted = torch.zeros_like(probability).scatter_(1, label, known)
        for place, values in enumerate((probability * known, predicted * confidence, predicted)):
            self.pending[place] += values.sum((0, 2, 3))

    def step(self) -> None:
        """Take the step's statistics into the running sums."""
        self.sums.mul_(KEEP).add_(self.pending, alpha=1 - KEEP)
        self.pending.zero_()

    def align(self, logits: Tensor) -> Tensor:
        """The logits (B, C, h, w) with each class moved towards its labelled share; unchanged before the first step.

        The factor lies between 1/LARGEST and LARGEST. A class that no labelled pixel has stays as it is.
        """
        if not self.alignment:
            return logits
        predicted = self.sums[0] / self.sums[0].sum()
        factor = (self.labelled / predicted.clamp(min=1e-6)).clamp(1 / LARGEST, LARGEST)
        known = (self.labelled > 0) & (self.sums[0].sum() > 0)
        return logits + torch.where(known, self.alignment * factor.log(), 0.0).to(logits.dtype)[:, None, None]

    def thresholds(self) -> Tensor:
        """Each class's threshold, (C,)."""
        fixed = torch.full_like(self.labelled, self.threshold)
        if self.floor is None:
            return fixed
        mean = self.sums[1] / self.sums[2].clamp(min=1e-12)
        return torch.where(self.sums[2] > 0, mean.clamp(self.floor, self.threshold), fixed)

    def scale(self, label: Tensor, confidence: Tensor) -> Tensor:
        """Confidence (B, H, W) times threshold / its label's own threshold.

        So it reaches the one threshold exactly where it reaches its own. Labels must be classes.
        """
        if self.floor is None:
            return confidence
        own = self.thresholds()[label]
        # exactly the threshold or more where it is reached: the quotient alone would round
        scaled = (confidence * (self.threshold / own)).clamp(max=1.0)
        return torch.where(
            confidence >= own, scaled.clamp(min=self.threshold), scaled.clamp(max=self.threshold * 0.9999)
        )
