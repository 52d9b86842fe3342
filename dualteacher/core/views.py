"""Batched augmentations on the device: colour jitter, blur, grayscale, flip.

Images are (B, C, H, W) floats in [0, 1]. Of more than three channels, colour operations change the first three as red,
green and blue, and the others' brightness and contrast; networks whose first channels are not RGB draw no saturation,
hue or grayscale (`without_colour`). Each image has its own parameters, drawn on the host and passed as tensors, so
nothing here waits for the device, loops over images or keeps a random state. To leave an image unchanged, pass identity
parameters (factor 1, angle 0).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dualteacher.core.upsampling import for_triton, full_precision
from dualteacher.settings import Jitter, Mixing

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
COLUMNS = ("brightness", "contrast", "saturation", "hue")
ORDER = (0, 1, 2, 3)


def gray(image: Tensor) -> Tensor:
    """Luma (B, 1, H, W) of RGB images."""
    r, g, b = image.unbind(1)
    return (LUMA[0] * r + LUMA[1] * g + LUMA[2] * b).unsqueeze(1)


def draw_jitter(rng: np.random.Generator, jitter: Jitter) -> list[float]:
    """One image's factors for `jitter`, in the order of COLUMNS; identity with probability 1 - jitter.probability."""
    applies = rng.random() < jitter.probability
    spread = rng.uniform(-1, 1, 4) * (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    return [*(1 + spread[:3]), spread[3]] if applies else [1.0, 1.0, 1.0, 0.0]


def draw_photometric(rng: np.random.Generator) -> list[float]:
    """One image's factors for the weak photometric distortion, each applied with probability 1/2.

    The usual ranges for segmentation: brightness ± 32/255, contrast and saturation 1 ± 0.5, hue ± 18° (0.05 turns).
    """
    applies = rng.random(4) < 0.5
    spread = np.where(applies, rng.uniform(-1, 1, 4), 0.0) * (32 / 255, 0.5, 0.5, 0.05)
    return [*(1 + spread[:3]), spread[3]]


def neutralise_colour(factors: np.ndarray) -> None:
    """Set an image's factors (4,) of saturation and hue to identity."""
    factors[2:] = 1.0, 0.0


def without_colour(mixing: Mixing) -> Mixing:
    """The settings for channels that are not RGB: brightness and contrast only. Draws the same random numbers."""
    still = {"saturation": 0.0, "hue": 0.0}
    jitters = {name: getattr(mixing, name).model_copy(update=still) for name in ("cutmix_jitter", "strong_jitter")}
    return mixing.model_copy(update={**jitters, "grayscale": 0.0})


def jitter(image: Tensor, factors: Tensor, order: Sequence[int] | Tensor = ORDER) -> Tensor:
    """Change brightness, contrast, saturation and hue by `factors` (B, 4), in `order` (indices into COLUMNS).

    order: on a GPU a tensor there, so that nothing waits for it and a CUDA graph serves every order.
    """
    if image.shape[1] > 3:
        first, others = image[:, :3].contiguous(), image[:, 3:]
        return torch.cat([jitter(first, factors, order), _one_by_one(others, factors)], 1)
    if image.shape[1] < 3:
        return _one_by_one(image, factors)
    if for_triton(image):
        from dualteacher.core import triton_views

        return triton_views.jitter(image, factors, _on_device(order, image.device))
    if isinstance(order, Tensor):
        order = order.tolist()
    columns = factors.to(image.dtype).T[:, :, None, None, None]
    operations = (_brightness, _contrast, _saturation, _hue)
    for index in order:
        image = operations[index](image, columns[index])
    return image


def _one_by_one(image: Tensor, factors: Tensor) -> Tensor:
    """Brightness, then contrast about each channel's own mean."""
    brightness, contrast, *_ = factors.to(image.dtype).T[:, :, None, None, None]
    image = _brightness(image, brightness)
    return torch.lerp(image.mean((2, 3), keepdim=True), image, contrast).clamp_(0, 1)


def _on_device(order: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    return order if isinstance(order, Tensor) else _constant(tuple(order), device)


@functools.cache
def _constant(order: tuple[int, ...], device: torch.device) -> Tensor:
    """Kept, since a CUDA graph cannot copy from the host's pageable memory."""
    return torch.tensor(order, dtype=torch.int32, device=device)


def _brightness(image: Tensor, factor: Tensor) -> Tensor:
    return (image * factor).clamp_(0, 1)


def _contrast(image: Tensor, factor: Tensor) -> Tensor:
    mean = gray(image).mean((2, 3), keepdim=True)
    return torch.lerp(mean, image, factor).clamp_(0, 1)


def _saturation(image: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(gray(image), image, factor).clamp_(0, 1)


def _hue(image: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue by `turns` (B, 1, 1, 1) at constant HSV saturation and value.

    Channel n ∈ {5, 3, 1} of an HSV colour is v - (v - m) · clamp(min(k, 4 - k), 0, 1) with k = (n + 6 h) mod 6 and m
    the smallest channel: one formula for all sextants.
    """
    r, g, b = image.unbind(1)
    value, low = image.amax(1), image.amin(1)
    chroma = value - low
    scale = chroma.mul(6).clamp_(min=1e-6).reciprocal_()
    # hue in turns, by the largest channel; lerp with weights 0 and 1 is faster than `where`
    hue = torch.lerp((r - g).mul_(scale).add_(2 / 3), (b - r).mul_(scale).add_(1 / 3), _equal(value, g))
    hue = torch.lerp(hue, (g - b).mul_(scale), _equal(value, r)).add_(1 + turns.squeeze(1))
    out = torch.empty_like(image)
    for channel, n in enumerate((5, 3, 1)):
        k = hue.add(n / 6).frac_().mul_(6)
        # min(k, 4 - k) = 2 - |k - 2|
        torch.sub(value, k.sub_(2).abs_().neg_().add_(2).clamp_(0, 1).mul_(chroma), out=out[:, channel])
    return out


def _equal(one: Tensor, other: Tensor) -> Tensor:
    """1.0 where two tensors are equal, else 0.0."""
    return torch.eq(one, other, out=torch.empty_like(one))


def blur(image: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Gaussian blur with one σ per image, (B,) in pixels; 0 for none.

    largest: bound on σ, known on the host, so that choosing the kernel size (± 3 σ) does not wait for the device.
    """
    batch, channels, height, width = image.shape
    radius = min(max(1, int(np.ceil(3 * largest))), height - 1, width - 1)
    offset = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offset / sigma.to(image.dtype)[:, None].clamp(min=0.01)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    planes = F.pad(image, (radius,) * 4, mode="reflect").reshape(1, batch * channels, *_grown(image, radius))
    with full_precision(image.device):  # bfloat16 weights add up to 1 ± 0.4 %
        planes = F.conv2d(planes, kernel[:, None, :, None], groups=batch * channels)
        planes = F.conv2d(planes, kernel[:, None, None, :], groups=batch * channels)
    return planes.reshape(batch, channels, height, width).clamp(0, 1)


def _grown(image: Tensor, radius: int) -> tuple[int, int]:
    return image.shape[2] + 2 * radius, image.shape[3] + 2 * radius


def grayscale(image: Tensor, chosen: Tensor) -> Tensor:
    """Replace the `chosen` (B,) images' first three channels by their luma."""
    if image.shape[1] < 3:
        return image
    changed = torch.where(chosen[:, None, None, None], gray(image[:, :3]), image[:, :3])
    return changed if image.shape[1] == 3 else torch.cat([changed, image[:, 3:]], 1)


def flip(tensor: Tensor, chosen: Tensor) -> Tensor:
    """Flip the `chosen` (B,) images (B, C, H, W) or label maps (B, H, W) left to right."""
    shape = (-1,) + (1,) * (tensor.dim() - 1)
    return torch.where(chosen.reshape(shape), tensor.flip(-1), tensor)
