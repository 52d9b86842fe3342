"""Mixed precision."""

from __future__ import annotations

import torch

TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def chosen(device: torch.device, precision: str) -> str:
    """A key of TYPES: what "auto" is on this device, else `precision` itself."""
    if precision != "auto":
        return precision
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context in which forward passes run in `precision`; weights, optimiser and sums stay float32."""
    dtype = TYPES[chosen(device, precision)]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
