"""Mixed precision."""

from __future__ import annotations

import torch

TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def chosen(device: torch.device, precision: str) -> str:
    """The precision to use, a key of TYPES. "auto": bfloat16 on a GPU with native support, else float32."""
    if precision != "auto":
        return precision
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context in which forward passes run in `precision`; weights, optimiser and sums stay float32."""
    dtype = TYPES[chosen(device, precision)]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
