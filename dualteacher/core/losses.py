"""The losses of Dual Teacher (Na et al., NeurIPS 2023), on logits at the network's own stride.

`logits` are the student's, (B, C, h, w); `label` (B, H, W) int64, IGNORE where a pixel does not count; `confidence`
(B, H, W) in [0, 1]. Logits are upsampled bilinearly (align_corners=False) to the label's size, without storing the
full-resolution tensor (see upsampling/). Every loss is a scalar, differentiable with respect to `logits` only.
Formulas: sections 3.2 and 3.3 of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from dualteacher.core import upsampling
from dualteacher.core.labels import IGNORE
from dualteacher.core.upsampling.class_sums import class_sums
from dualteacher.settings import Loss


def supervised_loss(logits: Tensor, label: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross entropy over the labelled pixels; 0 if there are none.

    weights (C,): weights of the mean by class, as in torch's `cross_entropy(weight=…)`.
    """
    if weights is None:
        total, _ = upsampling.cross_entropy_sum(logits, label)
        return total / (label != IGNORE).sum().clamp(min=1)
    weight = _pixel_weights(label, weights)
    total, _ = upsampling.cross_entropy_sum(logits, label, weight)
    return total / weight.sum().clamp(min=1e-12)


def _pixel_weights(label: Tensor, weights: Tensor) -> Tensor:
    """Each pixel's class weight, (B, H, W); 0 where ignored."""
    valid = label != IGNORE
    return weights.to(label.device)[torch.where(valid, label, 0)] * valid


def ohem_loss(logits: Tensor, label: Tensor, threshold: float, minimum: int, weights: Tensor | None = None) -> Tensor:
    """Online hard example mining (Shrivastava et al., CVPR 2016): cross entropy, mean over the hard pixels.

    A pixel is hard if the probability of its label is at most `threshold`, or if its loss is among the `minimum`
    largest (ties included). A first pass without gradient finds the hard pixels; a second computes the loss on them.
    """
    entropy = upsampling.cross_entropy_map(logits, label)
    limit = entropy.new_full((), -math.log(threshold) if threshold > 0 else math.inf)
    if minimum:
        place = max(0, entropy.numel() - minimum) + 1
        limit = torch.minimum(limit, entropy.flatten().kthvalue(place).values)
    hard = torch.where(entropy >= limit, label, IGNORE)
    return supervised_loss(logits, hard, weights)


def focal_loss(logits: Tensor, label: Tensor, gamma: float, weights: Tensor | None = None) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017): mean of (1 - p)^γ · CE over the labelled pixels, p the label's probability.

    weights (C,): weights of the mean by class.
    """
    entropy = upsampling.cross_entropy_map(logits, label)
    wrong = -torch.expm1(-entropy)  # 1 - p
    # d((1 - p)^γ CE) = slope · dCE, so that a weighted cross entropy has the focal loss's gradient
    tiny = torch.finfo(wrong.dtype).tiny  # keeps a negative power finite at p = 1
    slope = wrong**gamma + gamma * (1 - wrong) * entropy * wrong.clamp(min=tiny) ** (gamma - 1)
    weight = (label != IGNORE).to(wrong.dtype) if weights is None else _pixel_weights(label, weights)
    surrogate, _ = upsampling.cross_entropy_sum(logits, label, weight * slope)
    total = (weight * wrong**gamma * entropy).sum()
    return (surrogate + (total - surrogate).detach()) / weight.sum().clamp(min=1e-12)


def tversky_loss(logits: Tensor, label: Tensor, alpha: float, beta: float) -> Tensor:
    """Mean of 1 - TP / (TP + α FP + β FN) over the classes that occur in the labels; 0 if none does.

    TP, FP and FN are sums of probabilities over the labelled pixels of the whole batch (Salehi et al., MLMI 2017).
    α = β = ½ is the dice loss (Milletari et al., 3DV 2016). Every class that occurs counts the same. β > 0.
    """
    valid = label != IGNORE
    predicted, hit = class_sums(logits, label)
    pixels = torch.zeros(len(hit), dtype=torch.int64, device=label.device)  # as integers, so that order cannot matter
    pixels.scatter_add_(0, torch.where(valid, label, 0).flatten(), valid.flatten().long())
    present = pixels > 0
    total = hit + alpha * (predicted - hit) + beta * (pixels - hit)
    index = hit / torch.where(present, total, 1)
    return ((1 - index) * present).sum() / present.sum().clamp(min=1)


def on_labelled(loss: Loss, weights: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss on labelled pixels, `loss.terms` added up: (logits, label) → scalar. weights: (C,), one per class."""
    terms = [_term(name, loss, weights) for name in loss.terms]
    return terms[0] if len(terms) == 1 else partial(_added, terms)


def _added(terms: Sequence[Callable[[Tensor, Tensor], Tensor]], logits: Tensor, label: Tensor) -> Tensor:
    return torch.stack([term(logits, label) for term in terms]).sum()


def _term(name: str, loss: Loss, weights: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    if name == "ohem":
        return partial(ohem_loss, threshold=loss.ohem_threshold, minimum=loss.ohem_minimum, weights=weights)
    if name == "focal":
        return partial(focal_loss, gamma=loss.focal_gamma, weights=weights)
    if name == "dice":
        return partial(tversky_loss, alpha=0.5, beta=0.5)
    if name == "tversky":
        return partial(tversky_loss, alpha=loss.tversky_alpha, beta=loss.tversky_beta)
    return supervised_loss if weights is None else partial(supervised_loss, weights=weights)


def pseudo_label(teacher_logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pseudo-labels from teacher logits (B, C, h, w), upsampled to `size` = (H, W). No gradient.

    Returns the argmax (B, H, W) int64 and its softmax probability (B, H, W).
    """
    return upsampling.label_and_confidence(teacher_logits, size)


def consistency_loss(logits: Tensor, label: Tensor, confidence: Tensor, threshold: float) -> Tensor:
    """Implicit consistency: Σ CE · [confidence ≥ threshold] / number of pixels that are not IGNORE."""
    # ignoring pixels below the threshold saves computing their loss
    kept = torch.where(confidence >= threshold, label, IGNORE)
    total, _ = upsampling.cross_entropy_sum(logits, kept)
    return total / (label != IGNORE).sum().clamp(min=1)


def cutmix_loss(logits: Tensor, label: Tensor, confidence: Tensor, threshold: float) -> Tensor:
    """CutMix: mean of w_i · CE over the batch's pixels with CE > 0.

    w_i: share of image i's pixels whose (mixed) confidence reaches the threshold.
    """
    share = (confidence >= threshold).float().mean((1, 2), keepdim=True)
    total, positive = upsampling.cross_entropy_sum(logits, label, share)
    return total / positive.clamp(min=1)


def classmix_loss(logits: Tensor, label: Tensor, confidence: Tensor, threshold: float) -> Tensor:
    """ClassMix: mean of w · CE over all pixels.

    w: share of the batch's pixels whose (mixed) confidence reaches the threshold.
    """
    share = (confidence >= threshold).float().mean()
    total, _ = upsampling.cross_entropy_sum(logits, label, share)
    return total / label.numel()


def kept_share(confidence: Tensor, threshold: float) -> Tensor:
    """Share of pixels whose confidence reaches the threshold, a scalar."""
    return (confidence >= threshold).to(torch.float32).mean()
