"""Losses and labels on bilinearly upsampled logits that never make the full-resolution tensor.

At 150 classes the upsampled logits are by far the largest tensor of a training step. Here they exist only a pixel at a
time: on a CPU in Numba loops (cpu.py), on a CUDA device in Triton kernels (gpu.py). Everything else (other devices,
float64, no Triton, tracing for export) takes a stripe at a time (stripes.py). The gradient is formed in the forward
pass. Softmax is computed to the base 2, exp(x) = 2^(x log₂e), with the factor applied to the low-resolution logits:
`exp2` takes a quarter of the time of `exp`.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dualteacher.core.labels import IGNORE
from dualteacher.core.upsampling import stripes
from dualteacher.core.upsampling.stripes import CLASSES

LN2 = math.log(2)
LOG2E = math.log2(math.e)


def for_kernels(logits: Tensor) -> bool:
    """Whether the CPU's own sweeps take these logits: real ones, and no more precise than float32."""
    plain = type(logits) in (Tensor, torch.nn.Parameter) and not torch.jit.is_tracing()
    return plain and logits.device.type == "cpu" and logits.dtype.is_floating_point and logits.dtype != torch.float64


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def for_triton(logits: Tensor) -> bool:
    """Whether the Triton kernels take these logits: on a CUDA device, float32 or shorter. Fake tensors included."""
    if torch.jit.is_tracing() or torch.compiler.is_exporting() or not _has_triton():
        return False
    return logits.device.type == "cuda" and logits.dtype in (torch.float32, torch.bfloat16, torch.float16)


def pixels_first(logits: Tensor) -> Any:
    """(B, C, h, w) → (B, h, w, C) as the CPU's sweeps want it, float32; no copy if it is channels-last already."""
    return logits.detach().float().permute(0, 2, 3, 1).contiguous().numpy()


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast inside: sums over pixels are float32's business."""
    if device.type == "meta":  # shapes only; autocast does not know it
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def in_bits(logits: Tensor) -> Tensor:
    """Logits to the base 2, less each pixel's largest; at least float32."""
    bits = (logits if logits.dtype == torch.float64 else logits.float()).detach() * LOG2E
    return bits.sub_(bits.amax(1, keepdim=True))


class _CrossEntropy(torch.autograd.Function):
    """Weighted sum of the upsampled cross entropy, with its gradient formed in the forward sweep."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, label: Tensor, weight: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]
        if for_triton(logits):
            from dualteacher.core.upsampling import gpu

            total, positive, gradient = gpu.cross_entropy(logits.detach(), label, weight, ignore_index, wanted)
        else:
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
        return gradient.to(ctx.dtype, memory_format=torch.channels_last).mul(slope), None, None, None


def _sweep(logits: Tensor, label: Tensor, weight: Tensor | None, ignore_index: int) -> tuple[Tensor, Tensor | None]:
    """CE (B, H, W), 0 where ignored, and, given weights, d Σ weight · CE / d logits, (B, C, h, w)."""
    sweep = _numba_sweep if for_kernels(logits) else _striped_sweep
    own, total, gradient = sweep(logits, label, weight, ignore_index)
    return _entropy(own, total).mul(label != ignore_index), gradient


def _numba_sweep(
    logits: Tensor, label: Tensor, weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A pixel's own class and the sum of powers, (B, H, W) in bits and as a number; and the gradient."""
    from dualteacher.core.upsampling import cpu

    pull = None if weight is None else weight.float().contiguous().numpy()
    own, total, gradient = cpu.cross_entropy(pixels_first(logits), label.contiguous().numpy(), pull, ignore_index)
    back = None if gradient is None else torch.from_numpy(gradient).permute(0, 3, 1, 2)
    return torch.from_numpy(own), torch.from_numpy(total), back


def _striped_sweep(
    logits: Tensor, label: Tensor, weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same a stripe at a time."""
    valid = label != ignore_index
    bits = in_bits(logits)
    upsampler = stripes.upsampler(bits, (label.shape[1], label.shape[2]), gradient=weight is not None)
    target = upsampler.split(torch.where(valid, label, 0))
    own = torch.zeros(target.shape, dtype=bits.dtype, device=bits.device)
    total = torch.ones_like(own)
    share = own if weight is None else upsampler.split(torch.where(valid, weight.to(bits.dtype), 0))
    for stripe in upsampler.stripes():
        piece = upsampler.read(stripe)
        piece.sub_(piece.amax(CLASSES, keepdim=True))
        place = target[stripe.where]
        own[stripe.where] = piece.gather(CLASSES, place)
        power = piece.exp2_()
        norm = power.sum(CLASSES, keepdim=True)
        total[stripe.where] = norm
        if weight is not None:
            # p - [class = target], times the weight
            pull = share[stripe.where]
            upsampler.write(stripe, power.mul_(pull / norm).scatter_add_(CLASSES, place, -pull))
    return upsampler.join(own), upsampler.join(total), upsampler.gradient if weight is not None else None


def _entropy(own: Tensor, total: Tensor) -> Tensor:
    """-ln(2^own / total), never below 0, and 0 where the class has all of the probability in floating point.

    Between 2^-25 and 2^-24 of the probability for all others, the rounding of the sum decides which it is.
    """
    probability = own.exp2() / total
    return torch.where(probability > 0.5, -probability.log(), (total.log2() - own) * LN2)


def cross_entropy_sum(
    logits: Tensor, label: Tensor, weight: Tensor | float = 1.0, ignore_index: int = IGNORE
) -> tuple[Tensor, Tensor]:
    """Σ weight · CE over the pixels of bilinearly upsampled logits, and how many pixels had CE > 0.

    logits: (B, C, h, w) at the network's stride; label: (B, H, W) int64, `ignore_index` does not count;
    weight: anything that broadcasts to (B, H, W), not differentiated. Returns two scalars; only the first
    is differentiable, with respect to the logits. Equals interpolate + cross_entropy to rounding.
    A label that is no class raises an error, or on a CUDA device makes the sum NaN.
    """
    if not isinstance(weight, Tensor):
        weight = torch.full((), weight, device=logits.device)  # filled there: a copy would make the host wait
    total, positive = _CrossEntropy.apply(logits, label, weight.expand(label.shape), ignore_index)
    return total, positive


@torch.no_grad()
def cross_entropy_map(logits: Tensor, label: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """CE of every pixel of the upsampled logits, (B, H, W), without gradient; 0 where it is ignored."""
    if for_triton(logits):
        from dualteacher.core.upsampling import gpu

        return gpu.cross_entropy_map(logits, label, ignore_index)
    with full_precision(logits.device):
        return _sweep(logits, label, None, ignore_index)[0]


@torch.no_grad()
def label_and_confidence(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Argmax (B, H, W) int64 and largest softmax probability (B, H, W) of the upsampled logits."""
    if for_triton(logits):
        from dualteacher.core.upsampling import gpu

        return gpu.label_and_confidence(logits, *size, True)
    if for_kernels(logits):
        from dualteacher.core.upsampling import cpu

        found, probability = cpu.label_and_confidence(pixels_first(logits), size)
        return torch.from_numpy(found), torch.from_numpy(probability)
    with full_precision(logits.device):
        bits = in_bits(logits)
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
    if for_triton(logits):
        from dualteacher.core.upsampling import gpu

        return gpu.label_and_confidence(logits, *size, False)[0]
    if for_kernels(logits):
        from dualteacher.core.upsampling import cpu

        return torch.from_numpy(cpu.label_and_confidence(pixels_first(logits), size, with_confidence=False)[0])
    with full_precision(logits.device):
        bits = in_bits(logits)
        upsampler = stripes.upsampler(bits, size)
        label = upsampler.split(bits.new_empty(len(bits), *size))
        for stripe in upsampler.stripes():
            piece = upsampler.read(stripe)
            label[stripe.where] = stripes.first_zero(piece.sub_(piece.amax(CLASSES, keepdim=True)))
        return upsampler.join(label).long()


@torch.no_grad()
def enlarge(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, h, w) at a size (H, W) that is no smaller, bilinear; float32 on a CPU comes out channels-last."""
    if for_kernels(images):
        from dualteacher.core.upsampling import cpu

        return torch.from_numpy(cpu.enlarge(pixels_first(images), size)).permute(0, 3, 1, 2).to(images.dtype)
    return F.interpolate(images, size, mode="bilinear", align_corners=False)
