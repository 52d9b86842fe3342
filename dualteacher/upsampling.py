"""Bilinear upsampling of logits, a stripe at a time, so that the full-resolution tensor never exists.

At 150 classes the upsampled logits are the largest object of a training step by far. Bilinear
interpolation (align_corners=False) is linear and separable, ``U = R L Cᵀ`` with a row matrix R (H, h) and
a column matrix C (W, w), so a few output rows need only a few input rows: each stripe is made, reduced
(cross entropy, argmax, …) and thrown away while it is still in the cache. The gradient is formed in the
same sweep and carried back by the transposed matrices. Peak extra memory is one stripe.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of a stripe. On a CPU it should live in the second-level cache of a core; a GPU wants fewer,
# larger kernels. Measured in docs/performance.md.
STRIPE_ELEMENTS_CPU = 320_000
STRIPE_ELEMENTS_GPU = 32_000_000


def interpolation_matrix(output: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(output, size) matrix of 1-D bilinear interpolation with align_corners=False.

    Row i holds the hat function max(0, 1 - |x_i - j|) around its source position
    x_i = (i + 1/2) · size/output - 1/2, clamped to the input: exactly torch's weights.
    """
    # The positions are formed in float32, as torch's own interpolation forms them.
    source = torch.arange(output, device=device, dtype=torch.float32).add_(0.5).mul_(size / output).sub_(0.5)
    source = source.clamp_(0, size - 1).to(dtype)
    column = torch.arange(size, device=device, dtype=dtype)
    return (1 - (source[:, None] - column).abs_()).clamp_(min=0)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast inside: the sweep multiplies matrices, which autocast would do in bfloat16."""
    if device.type == "meta":  # shapes only; autocast does not know it
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


@dataclass(frozen=True)
class Stripe:
    """Images [first, last) and output rows [top, bottom), which read input rows [low, high)."""

    first: int
    last: int
    top: int
    bottom: int
    low: int
    high: int


def plan(batch: int, classes: int, rows: int, size: tuple[int, int], device: torch.device) -> Iterator[Stripe]:
    """Cut a batch into stripes of about the device's best number of elements.

    Images are taken together while they are small, and cut into rows when they are not.
    """
    height, width = size
    budget = STRIPE_ELEMENTS_CPU if device.type == "cpu" else STRIPE_ELEMENTS_GPU
    per_row = max(1, classes * width)
    step = max(1, min(height, budget // per_row))
    step = -(-height // -(-height // step))  # equal stripes rather than a thin last one
    images = max(1, budget // (per_row * height)) if step == height else 1
    for first in range(0, batch, images):
        for top in range(0, height, step):
            bottom = min(height, top + step)
            low = max(0, int((top + 0.5) * rows / height - 0.5))
            high = min(rows, max(0, int((bottom - 0.5) * rows / height - 0.5)) + 2)
            yield Stripe(first, min(batch, first + images), top, bottom, low, high)


class Upsampler:
    """Upsamples logits (B, C, h, w) to `size` stripe by stripe; computes in float32 (float64 stays).

    Iterate over `stripes()`, get each piece with `read`, and, where a gradient is wanted, give the
    gradient of the piece to `write`; `gradient` then holds that of the low-resolution logits.
    """

    def __init__(self, logits: Tensor, size: tuple[int, int], *, gradient: bool = False) -> None:
        if logits.dim() != 4:
            raise ValueError(f"logits must be (B, C, h, w), not {tuple(logits.shape)}")
        self.size = size
        self.dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self.logits = logits.to(self.dtype)
        batch, classes, h, w = logits.shape
        self.rows = interpolation_matrix(size[0], h, logits.device, self.dtype)
        self.columns = interpolation_matrix(size[1], w, logits.device, self.dtype)
        self.gradient = torch.zeros_like(self.logits, memory_format=torch.contiguous_format) if gradient else None
        self._plan = list(plan(batch, classes, h, size, logits.device))
        self._wide: Tensor | None = None  # the current images, upsampled along the width only
        self._wide_gradient: Tensor | None = None

    def stripes(self) -> Iterator[Stripe]:
        """All stripes in order; the widened images change when `first` does."""
        previous: Stripe | None = None
        for stripe in self._plan:
            if previous is None or stripe.first != previous.first:
                self._finish(previous)
                images = self.logits[stripe.first : stripe.last]
                self._wide = images @ self.columns.T
                if self.gradient is not None:
                    self._wide_gradient = torch.zeros_like(self._wide)
            previous = stripe
            yield stripe
        self._finish(previous)
        self._wide = self._wide_gradient = None

    def read(self, stripe: Stripe) -> Tensor:
        """The upsampled logits of a stripe, (b, C, rows, W)."""
        assert self._wide is not None
        return self._row_weights(stripe) @ self._wide[:, :, stripe.low : stripe.high]

    def write(self, stripe: Stripe, gradient: Tensor) -> None:
        """Add the gradient with respect to a stripe's upsampled logits, (b, C, rows, W)."""
        assert self._wide_gradient is not None
        self._wide_gradient[:, :, stripe.low : stripe.high] += self._row_weights(stripe).T @ gradient

    def _row_weights(self, stripe: Stripe) -> Tensor:
        return self.rows[stripe.top : stripe.bottom, stripe.low : stripe.high]

    def _finish(self, stripe: Stripe | None) -> None:
        if stripe is not None and self.gradient is not None:
            assert self._wide_gradient is not None
            torch.matmul(self._wide_gradient, self.columns, out=self.gradient[stripe.first : stripe.last])


class _CrossEntropy(torch.autograd.Function):
    """Weighted sum of the upsampled cross entropy, with its gradient formed in the forward sweep."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, label: Tensor, weight: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]
        size = (label.shape[-2], label.shape[-1])
        with full_precision(logits.device):
            upsampler = Upsampler(logits.detach(), size, gradient=wanted)
            valid = label != ignore_index
            index = torch.where(valid, label, 0)
            weight = torch.where(valid, weight.to(upsampler.dtype), 0)
            total = torch.zeros((), dtype=upsampler.dtype, device=logits.device)
            positive = torch.zeros((), dtype=torch.int64, device=logits.device)
            for stripe in upsampler.stripes():
                where = (slice(stripe.first, stripe.last), slice(stripe.top, stripe.bottom))
                target, scale = index[where].unsqueeze(1), weight[where].unsqueeze(1)
                log_probability = upsampler.read(stripe).log_softmax(1)
                entropy = log_probability.gather(1, target).neg_()
                total += (entropy * scale).sum()
                positive += ((entropy > 0) & valid[where].unsqueeze(1)).sum()
                if wanted:
                    slope = log_probability.exp_().mul_(scale).scatter_add_(1, target, -scale)
                    upsampler.write(stripe, slope)
        if wanted:
            assert upsampler.gradient is not None
            ctx.save_for_backward(upsampler.gradient)
            ctx.dtype = logits.dtype
        ctx.mark_non_differentiable(positive)
        return total, positive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, _positive: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * slope).to(ctx.dtype), None, None, None


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
def label_and_confidence(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Argmax (B, H, W) int64 and largest softmax probability (B, H, W) of the upsampled logits."""
    batch, height, width = logits.shape[0], *size
    label = torch.empty((batch, height, width), dtype=torch.int64, device=logits.device)
    with full_precision(logits.device):
        upsampler = Upsampler(logits.detach(), size)
        confidence = torch.empty((batch, height, width), dtype=upsampler.dtype, device=logits.device)
        for stripe in upsampler.stripes():
            where = (slice(stripe.first, stripe.last), slice(stripe.top, stripe.bottom))
            piece = upsampler.read(stripe)
            highest, label[where] = piece.max(1)
            # softmax at the maximum is exp(0) over the sum: no softmax needs to be written out
            confidence[where] = piece.sub_(highest.unsqueeze(1)).exp_().sum(1).reciprocal_()
    return label, confidence


@torch.no_grad()
def argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Class with the largest upsampled logit, (B, H, W) int64."""
    label = torch.empty((logits.shape[0], *size), dtype=torch.int64, device=logits.device)
    with full_precision(logits.device):
        upsampler = Upsampler(logits.detach(), size)
        for stripe in upsampler.stripes():
            where = (slice(stripe.first, stripe.last), slice(stripe.top, stripe.bottom))
            label[where] = upsampler.read(stripe).argmax(1)
    return label
