"""Losses and labels on bilinearly upsampled logits that never make the full-resolution tensor.

At 150 classes the upsampled logits are the largest object of a training step by far. Here they exist a stripe
at a time (see stripes.py), and the gradient is formed in the same sweep. Softmax is computed to the base 2,
exp(x) = 2^(x log₂e), with the factor applied to the low-resolution logits: `exp2` takes a quarter of the time
of `exp` on a CPU.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dualteacher import cells, stripes
from dualteacher.stripes import CLASSES

LN2 = math.log(2)
LOG2E = math.log2(math.e)
DEEP = -100.0  # bits below the largest logit; 2^-100 is still far from underflow in float32
MANY_CLASSES = 64


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast inside: sums over pixels are float32's business."""
    if device.type == "meta":  # shapes only; autocast does not know it
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def widen(logits: Tensor) -> Tensor:
    """At least float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def in_bits(logits: Tensor) -> tuple[Tensor, bool]:
    """Logits to the base 2, less each pixel's largest; and whether they need no further shift when upsampled.

    An upsampled pixel mixes four pixels, so its largest logit is at most 0, and not below the lowest of all:
    where that is no lower than DEEP, 2^x neither overflows nor vanishes. Asked on the CPU alone, since
    elsewhere the answer would be waited for; False is always safe.
    """
    bits = widen(logits.detach()) * LOG2E
    bits -= bits.amax(1, keepdim=True)
    return bits, bits.device.type == "cpu" and bits.numel() > 0 and float(bits.amin()) > DEEP


class _CrossEntropy(torch.autograd.Function):
    """Weighted sum of the upsampled cross entropy, with its gradient formed in the forward sweep."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, label: Tensor, weight: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]
        with full_precision(logits.device):
            entropy, gradient = _sweep(logits, label, weight if wanted else None, ignore_index)
            total = (entropy * weight).sum()
            positive = (entropy > 0).sum()
        if wanted:
            ctx.save_for_backward(gradient)
            ctx.dtype = logits.dtype
        ctx.mark_non_differentiable(positive)
        return total, positive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, _positive: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        # channels last, as the network's last layer wants it
        out = torch.empty(gradient.shape, dtype=ctx.dtype, device=slope.device, memory_format=torch.channels_last)
        return out.copy_(gradient).mul_(slope), None, None, None


def _sweep(logits: Tensor, label: Tensor, weight: Tensor | None, ignore_index: int) -> tuple[Tensor, Tensor | None]:
    """CE (B, H, W), 0 where ignored, and, given weights, d Σ weight · CE / d logits, (B, C, h, w)."""
    valid = label != ignore_index
    bits, bounded = in_bits(logits)
    upsampler = stripes.upsampler(bits, (label.shape[1], label.shape[2]), gradient=weight is not None)
    target = upsampler.split(torch.where(valid, label, 0))
    own = torch.zeros(target.shape, dtype=bits.dtype, device=bits.device)
    total = torch.ones_like(own)
    share, busy, pulled = own, busy_rows(valid), None
    if weight is not None:
        weight = torch.where(valid, weight.to(bits.dtype), 0)
        share, pulled = upsampler.split(weight), busy_rows(weight)
    for stripe in upsampler.stripes():
        if not is_busy(stripe, busy):
            continue
        piece = upsampler.read(stripe)
        if not bounded:
            piece.sub_(piece.amax(CLASSES, keepdim=True))
        place = target[stripe.where]
        own[stripe.where] = piece.gather(CLASSES, place)
        power = piece.exp2_()
        norm = power.sum(CLASSES, keepdim=True)
        total[stripe.where] = norm
        if weight is not None and is_busy(stripe, pulled):
            # p - [class = target], times the weight
            pull = share[stripe.where]
            upsampler.write(stripe, power.mul_(pull / norm).scatter_add_(CLASSES, place, -pull))
    entropy = upsampler.join(_entropy(own, total)).mul(valid)
    return entropy, upsampler.gradient if weight is not None else None


def _entropy(own: Tensor, total: Tensor) -> Tensor:
    """-ln(2^own / total), exactly 0 where the class has all of the probability in floating point."""
    probability = own.exp2() / total
    return torch.where(probability > 0.5, -probability.log(), (total.log2() - own) * LN2)


def busy_rows(pixels: Tensor) -> np.ndarray | None:
    """(B, H): which rows of a map (B, H, W) have anything but 0, so that stripes of nothing are passed over.

    None: not known, since the answer would have to be waited for.
    """
    return pixels.ne(0).any(2).numpy() if pixels.device.type == "cpu" else None


def is_busy(stripe: stripes.Stripe, rows: np.ndarray | None) -> bool:
    """Whether a stripe has a busy row, as far as is known."""
    return rows is None or bool(rows[stripe.images, stripe.rows].any())


def cross_entropy_sum(
    logits: Tensor, label: Tensor, weight: Tensor | float = 1.0, ignore_index: int = 255
) -> tuple[Tensor, Tensor]:
    """Σ weight · CE over the pixels of bilinearly upsampled logits, and how many pixels had CE > 0.

    logits: (B, C, h, w) at the network's stride; label: (B, H, W) int64, `ignore_index` does not count;
    weight: anything that broadcasts to (B, H, W), not differentiated. Returns two scalars; only the first
    is differentiable, with respect to the logits. Equals interpolate + cross_entropy to rounding.
    """
    weight = torch.as_tensor(weight, device=logits.device)
    total, positive = _CrossEntropy.apply(logits, label, weight.expand(label.shape), ignore_index)
    return total, positive


@torch.no_grad()
def cross_entropy_map(logits: Tensor, label: Tensor, ignore_index: int = 255) -> Tensor:
    """CE of every pixel of the upsampled logits, (B, H, W), without gradient; 0 where it is ignored."""
    with full_precision(logits.device):
        return _sweep(logits, label, None, ignore_index)[0]


@torch.no_grad()
def label_and_confidence(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Argmax (B, H, W) int64 and largest softmax probability (B, H, W) of the upsampled logits."""
    with full_precision(logits.device):
        bits, _ = in_bits(logits)
        upsampler = stripes.upsampler(bits, size)
        confidence = upsampler.split(bits.new_empty(len(bits), *size))
        label = torch.empty_like(confidence)
        for stripe in upsampler.stripes():
            piece = upsampler.read(stripe)
            piece.sub_(piece.amax(CLASSES, keepdim=True))
            label[stripe.where] = stripes.first_zero(piece)
            # softmax at the maximum is 2^0 over the sum: no softmax needs to be written out
            confidence[stripe.where] = piece.exp2_().sum(CLASSES, keepdim=True).reciprocal_()
        return upsampler.join(label).long(), upsampler.join(confidence)


@torch.no_grad()
def argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Class with the largest upsampled logit, (B, H, W) int64."""
    # elsewhere the choice of cells would be waited for; with few classes there is little to leave out
    if logits.device.type == "cpu" and logits.shape[1] >= MANY_CLASSES:
        return cells.argmax(widen(logits), size)
    with full_precision(logits.device):
        bits, _ = in_bits(logits)
        upsampler = stripes.upsampler(bits, size)
        label = upsampler.split(bits.new_empty(len(bits), *size))
        for stripe in upsampler.stripes():
            piece = upsampler.read(stripe)
            label[stripe.where] = stripes.first_zero(piece.sub_(piece.amax(CLASSES, keepdim=True)))
        return upsampler.join(label).long()
