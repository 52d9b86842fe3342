"""Losses and labels on bilinearly upsampled logits, without storing the full-resolution tensor.

At 150 classes the upsampled logits would be by far the largest tensor of a training step. Here they exist for a few
pixels at a time: in Numba loops on a CPU (cpu.py), in Triton kernels on a CUDA device (gpu.py). Other devices, float64,
installations without Triton and tracing for export work on stripes of rows (stripes.py). The gradient is computed in
the forward pass. Softmax uses base 2, exp(x) = 2^(x log₂e), with the factor applied to the low-resolution logits:
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
from dualteacher.system.console import logger

LN2 = math.log(2)
LOG2E = math.log2(math.e)


def for_kernels(logits: Tensor) -> bool:
    """Whether the Numba kernels take these logits: a plain CPU tensor (not fake, not traced), at most float32."""
    plain = type(logits) in (Tensor, torch.nn.Parameter) and not torch.jit.is_tracing()
    return plain and logits.device.type == "cpu" and logits.dtype.is_floating_point and logits.dtype != torch.float64


@functools.cache
def _has_triton() -> bool:
    """Whether Triton is installed and, if there is a GPU, works: it builds a C extension to launch kernels."""
    if importlib.util.find_spec("triton") is None:
        return False
    if not torch.cuda.is_available():
        return True  # for fake tensors
    try:
        from triton.runtime import driver

        driver.active.get_current_target()
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning(
            "Triton does not work here (%s): losses, labels and colour jitter run on slower torch operations, and steps"
            " without CUDA graphs; install a C compiler (gcc) and Python's headers (python3-dev)", why,
        )  # fmt: skip
        return False
    return True


def for_triton(logits: Tensor) -> bool:
    """Whether the Triton kernels take these logits: on a CUDA device, at most float32. Fake tensors included."""
    if torch.jit.is_tracing() or torch.compiler.is_exporting() or not _has_triton():
        return False
    return logits.device.type == "cuda" and logits.dtype in (torch.float32, torch.bfloat16, torch.float16)


def pixels_first(logits: Tensor) -> Any:
    """(B, C, h, w) → numpy (B, h, w, C) float32 for the Numba kernels; no copy if channels-last float32 already."""
    return logits.detach().float().permute(0, 2, 3, 1).contiguous().numpy()


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Context without autocast: sums over pixels need float32."""
    if device.type == "meta":  # autocast does not support it
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def in_bits(logits: Tensor) -> Tensor:
    """Logits · log₂e minus each pixel's maximum, at least float32."""
    bits = (logits if logits.dtype == torch.float64 else logits.float()).detach() * LOG2E
    return bits.sub_(bits.amax(1, keepdim=True))


class _CrossEntropy(torch.autograd.Function):
    """Weighted sum of the upsampled cross entropy; computes its gradient in the forward pass."""

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
        # channels-last, like the network's last layer
        return gradient.to(ctx.dtype, memory_format=torch.channels_last).mul(slope), None, None, None


def _sweep(logits: Tensor, label: Tensor, weight: Tensor | None, ignore_index: int) -> tuple[Tensor, Tensor | None]:
    """CE (B, H, W), 0 where ignored; with `weight` also d(Σ weight · CE)/d(logits), (B, C, h, w)."""
    sweep = _numba_sweep if for_kernels(logits) else _striped_sweep
    own, total, gradient = sweep(logits, label, weight, ignore_index)
    return _entropy(own, total).mul(label != ignore_index), gradient


def _numba_sweep(
    logits: Tensor, label: Tensor, weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """own and total, (B, H, W), with p(label) = 2^own / total; and the gradient, if `weight` is given."""
    from dualteacher.core.upsampling import cpu

    pull = None if weight is None else weight.float().contiguous().numpy()
    own, total, gradient = cpu.cross_entropy(pixels_first(logits), label.contiguous().numpy(), pull, ignore_index)
    back = None if gradient is None else torch.from_numpy(gradient).permute(0, 3, 1, 2)
    return torch.from_numpy(own), torch.from_numpy(total), back


def _striped_sweep(
    logits: Tensor, label: Tensor, weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same, on stripes."""
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
            # weight · (p - [class = target])
            pull = share[stripe.where]
            upsampler.write(stripe, power.mul_(pull / norm).scatter_add_(CLASSES, place, -pull))
    return upsampler.join(own), upsampler.join(total), upsampler.gradient if weight is not None else None


def _entropy(own: Tensor, total: Tensor) -> Tensor:
    """-ln(2^own / total) ≥ 0; exactly 0 where the probability rounds to 1.

    If all other classes together have a probability between 2^-25 and 2^-24, the rounding of the sum decides.
    """
    probability = own.exp2() / total
    return torch.where(probability > 0.5, -probability.log(), (total.log2() - own) * LN2)


def cross_entropy_sum(
    logits: Tensor, label: Tensor, weight: Tensor | float = 1.0, ignore_index: int = IGNORE
) -> tuple[Tensor, Tensor]:
    """Σ weight · CE over the pixels of bilinearly upsampled logits, and the number of pixels with CE > 0.

    logits: (B, C, h, w) at the network's stride. label: (B, H, W) int64; skips pixels of `ignore_index`. weight:
    broadcasts to (B, H, W), not differentiated. Returns two scalars; the first is differentiable with respect to the
    logits. Equals interpolate + cross_entropy up to rounding. An invalid label raises an error, or makes the sum NaN
    on a CUDA device.
    """
    if not isinstance(weight, Tensor):
        weight = torch.full((), weight, device=logits.device)  # filled on the device: a copy would make the host wait
    total, positive = _CrossEntropy.apply(logits, label, weight.expand(label.shape), ignore_index)
    return total, positive


@torch.no_grad()
def cross_entropy_map(logits: Tensor, label: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """CE of every pixel of the upsampled logits, (B, H, W), 0 where ignored. No gradient."""
    if for_triton(logits):
        from dualteacher.core.upsampling import gpu

        return gpu.cross_entropy_map(logits, label, ignore_index)
    with full_precision(logits.device):
        return _sweep(logits, label, None, ignore_index)[0]


@torch.no_grad()
def label_and_confidence(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Argmax (B, H, W) int64 and its softmax probability (B, H, W), of logits upsampled to `size` (H, W)."""
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
            # the maximum's softmax is 2^0 / sum: no need to write out the others
            confidence[stripe.where] = piece.exp2_().sum(CLASSES, keepdim=True).reciprocal_()
        return upsampler.join(label).long(), upsampler.join(confidence)


@torch.no_grad()
def argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Argmax (B, H, W) int64 of logits upsampled to `size` (H, W)."""
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
    """Upsample images (B, C, h, w) to `size` (H, W), bilinear, no antialiasing. Numba's result is channels-last."""
    if for_kernels(images):
        from dualteacher.core.upsampling import cpu

        return torch.from_numpy(cpu.enlarge(pixels_first(images), size)).permute(0, 3, 1, 2).to(images.dtype)
    return F.interpolate(images, size, mode="bilinear", align_corners=False)
