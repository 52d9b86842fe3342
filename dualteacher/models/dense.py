"""A linear layer over the fastest CPU kernel.

On a CPU torch multiplies float32 matrices by MKL but convolves by oneDNN, which on processors of another
maker than MKL's takes half the time. A linear layer is a convolution with a 1 × 1 kernel, so it can be had
from either (docs/performance.md has the measurements).
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, K), weight (N, K), bias (N,) or None → (…, N): what F.linear gives, to rounding."""
    rows = x.numel() // x.shape[-1]
    images = _images(rows) if _convolves(x) else 0
    if not images:
        return F.linear(x, weight, bias)
    planes = x.reshape(images, 1, rows // images, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(planes, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


def _convolves(x: Tensor) -> bool:
    """Whether oneDNN's convolution is to be had: not for other types, nor where autocast or a compiler chooses."""
    chosen = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return x.device.type == "cpu" and x.dtype == torch.float32 and not chosen


@cache
def _images(rows: int) -> int:
    """Into how many images to fold that many rows; 0: it does not pay.

    torch leaves 1 × 1 convolutions of fewer than 16 images to a slower kernel when it runs on one thread.
    """
    return next((n for n in range(64, 15, -1) if rows % n == 0), 0) if rows >= 1024 else 0
