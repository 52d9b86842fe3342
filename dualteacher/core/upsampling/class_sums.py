"""Sums of class probabilities over the labelled pixels, for losses on whole regions such as dice.

On stripes of rows on every device (see stripes.py). The gradient needs the sums first, so a second sweep in the
backward pass computes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dualteacher.core.labels import IGNORE
from dualteacher.core.upsampling import full_precision, in_bits, stripes
from dualteacher.core.upsampling.stripes import CLASSES, Stripe, Upsampler

PIXELS = (0, 1, 2, 4)  # pixel dimensions of a piece


def class_sums(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """(Σ p_c over the labelled pixels, Σ p_c over the pixels labelled c), each (C,), of the upsampled softmax p.

    logits: (B, C, h, w) at the network's stride. label: (B, H, W) int64; skips pixels that are IGNORE. Both sums are
    differentiable with respect to the logits.
    """
    total, own = _ClassSums.apply(logits, label)
    return total, own


class _ClassSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, label)
        with full_precision(logits.device):
            return _sums(logits, label)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, own_slope: Tensor) -> tuple[Tensor, None]:
        logits, label = ctx.saved_tensors
        with full_precision(logits.device):
            gradient = _gradient(logits, label, slope, own_slope)
        return gradient.to(logits.dtype, memory_format=torch.channels_last), None


def _sums(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    bits = in_bits(logits)
    upsampler = stripes.upsampler(bits, (label.shape[1], label.shape[2]))
    total, own = bits.new_zeros(2, bits.shape[1])
    for _, probability, place in _pieces(upsampler, label):
        total += probability.sum(PIXELS)
        labelled = probability.gather(CLASSES, place)
        own += probability.zero_().scatter_(CLASSES, place, labelled).sum(PIXELS)
    return total, own


def _gradient(logits: Tensor, label: Tensor, slope: Tensor, own_slope: Tensor) -> Tensor:
    """Gradient with respect to the logits; `slope` and `own_slope` (C,) are those with respect to the sums."""
    upsampler = stripes.upsampler(in_bits(logits), (label.shape[1], label.shape[2]), gradient=True)
    for stripe, probability, place in _pieces(upsampler, label):
        # p_c (v_c - Σ_k p_k v_k) with v_c = slope_c + [c = label] own_slope_c
        pull = probability * slope[:, None]
        pull.scatter_add_(CLASSES, place, probability.gather(CLASSES, place) * own_slope[place])
        mean = pull.sum(CLASSES, keepdim=True)
        upsampler.write(stripe, pull.addcmul_(probability, mean, value=-1))
    return upsampler.gradient


def _pieces(upsampler: Upsampler, label: Tensor) -> Iterator[tuple[Stripe, Tensor, Tensor]]:
    """Each stripe with its class probabilities, 0 where ignored, and its labels as indices (0 where ignored)."""
    valid = label != IGNORE
    target, counts = upsampler.split(torch.where(valid, label, 0)), upsampler.split(valid)
    for stripe in upsampler.stripes():
        piece = upsampler.read(stripe)
        power = piece.sub_(piece.amax(CLASSES, keepdim=True)).exp2_()
        yield stripe, power.mul_(counts[stripe.where] / power.sum(CLASSES, keepdim=True)), target[stripe.where]
