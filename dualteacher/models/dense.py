"""A linear layer as a 1 × 1 convolution, where that is faster.

On a CPU torch multiplies float32 matrices with MKL but convolves with oneDNN, which takes half the time on non-Intel
processors.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, K), weight (N, K), bias (N,) or None → (…, N). Equals F.linear up to rounding."""
    rows = x.numel() // x.shape[-1]
    images = _images(rows) if _convolves(x) else 0
    if not images:
        return F.linear(x, weight, bias)
    planes = x.reshape(images, 1, rows // images, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(planes, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


def _convolves(x: Tensor) -> bool:
    """Whether to use oneDNN's convolution: float32 on a CPU, outside autocast and torch.compile."""
    elsewhere = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return x.device.type == "cpu" and x.dtype == torch.float32 and not elsewhere


@cache
def _images(rows: int) -> int:
    """Number of images to fold `rows` into; 0 if convolving does not pay.

    On one thread torch uses a slower kernel for 1 × 1 convolutions of fewer than 16 images.
    """
    return next((n for n in range(64, 15, -1) if rows % n == 0), 0) if rows >= 1024 else 0
