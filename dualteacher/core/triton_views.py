"""Colour jitter as two Triton kernels, in place of some thirty operations of torch; formulas: `views.jitter`.

The order of the four operations is read from the device, so a CUDA graph of a step serves every order. The first kernel
runs only for the contrast's mean: it applies what comes before the contrast and sums the luma of each block. The second
applies all four. A pixel stays in registers; an image is read twice and written once. Sums are gathered in a fixed
order, so the same input gives the same bits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dualteacher.core.views import LUMA

RED, GREEN, BLUE = tl.constexpr(LUMA[0]), tl.constexpr(LUMA[1]), tl.constexpr(LUMA[2])
BRIGHTNESS, CONTRAST, SATURATION = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # places in views.COLUMNS
PIXELS = 1024  # pixels of a program


@triton.jit
def unit(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def channel(hue, n, value, chroma):
    k = hue + n / 6.0
    k = (k - tl.floor(k)) * 6.0
    return value - unit(2.0 - tl.abs(k - 2.0)) * chroma


@triton.jit
def turned(r, g, b, turns):
    """The hue turned at constant HSV saturation and value."""
    value, low = tl.maximum(tl.maximum(r, g), b), tl.minimum(tl.minimum(r, g), b)
    chroma = value - low
    scale = 1.0 / tl.maximum(6.0 * chroma, 1e-6)
    hue = tl.where(value == g, (b - r) * scale + 1.0 / 3.0, (r - g) * scale + 2.0 / 3.0)
    hue = tl.where(value == r, (g - b) * scale, hue) + (1.0 + turns)
    return channel(hue, 5.0, value, chroma), channel(hue, 3.0, value, chroma), channel(hue, 1.0, value, chroma)


@triton.jit
def changed(r, g, b, operation, factor, mean):
    """One operation; which one is known on the device only."""
    if operation == BRIGHTNESS:
        r, g, b = unit(r * factor), unit(g * factor), unit(b * factor)
    elif operation == CONTRAST:
        r, g, b = unit(mean + factor * (r - mean)), unit(mean + factor * (g - mean)), unit(mean + factor * (b - mean))
    elif operation == SATURATION:
        luma = RED * r + GREEN * g + BLUE * b
        r, g, b = unit(luma + factor * (r - luma)), unit(luma + factor * (g - luma)), unit(luma + factor * (b - luma))
    else:
        r, g, b = turned(r, g, b, factor)
    return r, g, b


@triton.jit
def load_pixels(image, batch, place, size, real):
    start = image + batch.to(tl.int64) * 3 * size + place
    return (
        tl.load(start, mask=real, other=0.0),
        tl.load(start + size, mask=real, other=0.0),
        tl.load(start + 2 * size, mask=real, other=0.0),
    )


@triton.jit
def luma_kernel(image, factors, order, sums, size, N: tl.constexpr):
    """sums[image, block]: Σ luma of the block's pixels, after the operations that precede the contrast."""
    batch = tl.program_id(0)
    place = tl.program_id(1) * N + tl.arange(0, N)
    real = place < size
    r, g, b = load_pixels(image, batch, place, size, real)
    before = 1
    for turn in tl.static_range(4):
        operation = tl.load(order + turn)
        before = tl.where(operation == CONTRAST, 0, before)
        if before == 1:
            r, g, b = changed(r, g, b, operation, tl.load(factors + batch * 4 + operation), 0.0)
    luma = tl.where(real, RED * r + GREEN * g + BLUE * b, 0.0)
    tl.store(sums + batch * tl.num_programs(1) + tl.program_id(1), tl.sum(luma))


@triton.jit
def jitter_kernel(image, factors, order, sums, out, size, blocks, N: tl.constexpr, M: tl.constexpr):
    """The four operations; sums: of luma_kernel, `blocks` ≤ M for each image."""
    batch = tl.program_id(0)
    part = tl.arange(0, M)
    mean = tl.sum(tl.load(sums + batch * blocks + part, mask=part < blocks, other=0.0)) / size
    place = tl.program_id(1) * N + tl.arange(0, N)
    real = place < size
    r, g, b = load_pixels(image, batch, place, size, real)
    for turn in tl.static_range(4):
        operation = tl.load(order + turn)
        r, g, b = changed(r, g, b, operation, tl.load(factors + batch * 4 + operation), mean)
    start = out + batch.to(tl.int64) * 3 * size + place
    tl.store(start, r, mask=real)
    tl.store(start + size, g, mask=real)
    tl.store(start + 2 * size, b, mask=real)


@torch.library.custom_op("dualteacher::jitter", mutates_args=())
def jitter(image: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """image (B, 3, H, W) float32, factors (B, 4) float32, order (4,) int32, all on one device → as image."""
    batch, channels, height, width = image.shape
    if channels != 3 or factors.shape != (batch, 4) or order.shape != (4,):
        raise ValueError(f"cannot jitter {tuple(image.shape)} by {tuple(factors.shape)} in {tuple(order.shape)}")
    image, factors = image.contiguous(), factors.contiguous()
    size = height * width
    blocks = triton.cdiv(size, PIXELS)
    sums = torch.empty((batch, blocks), dtype=torch.float32, device=image.device)
    out = torch.empty_like(image)
    with _on(image):
        luma_kernel[batch, blocks](image, factors, order, sums, size, N=PIXELS)
        jitter_kernel[batch, blocks](
            image, factors, order, sums, out, size, blocks, N=PIXELS, M=triton.next_power_of_2(blocks)
        )
    return out


@jitter.register_fake
def _(image: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    return torch.empty_like(image, memory_format=torch.contiguous_format)


def _on(image: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(image.device) if image.is_cuda else nullcontext()
