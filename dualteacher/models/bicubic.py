"""Bicubic resampling with a deterministic backward pass, which torch lacks on CUDA.

timm resamples position embeddings to an image's grid in the forward pass. Where they are trained at another size than
their own (DINOv2 with Cityscapes' crops of 798 pixels), torch's own backward pass is refused under deterministic
algorithms. The resampling is linear and separable, so two matrix products do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import pos_embed
from torch import Tensor


def interpolate(x: Tensor, size: Sequence[int], mode: str = "nearest", **options: Any) -> Tensor:
    """As torch's `interpolate`: x (B, C, h, w) → (B, C, *size)."""
    if mode == "bicubic" and _needed(x):
        return by_matrices(x, size, **options)
    return F.interpolate(x, size=size, mode=mode, **options)


def _needed(x: Tensor) -> bool:
    return x.requires_grad and x.is_cuda and torch.are_deterministic_algorithms_enabled()


def by_matrices(x: Tensor, size: Sequence[int], **options: Any) -> Tensor:
    """The rows and columns of x (B, C, h, w) by a product with their weights, in x's precision."""
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = (_weights(x, old, new, options) for old, new in zip(x.shape[-2:], size, strict=True))
        return rows @ x @ columns.T


@torch.no_grad()
def _weights(x: Tensor, old: int, new: int, options: dict[str, Any]) -> Tensor:
    """(new, old): what each old place contributes to a new one."""
    unit = torch.eye(old, dtype=x.dtype, device=x.device)
    return F.interpolate(unit[None, None], size=(new, old), mode="bicubic", **options)[0, 0]


class _Functions:
    """What timm's module of position embeddings uses of torch.nn.functional."""

    interpolate = staticmethod(interpolate)


def install() -> None:
    """Let timm resample position embeddings this way."""
    pos_embed.F = _Functions
