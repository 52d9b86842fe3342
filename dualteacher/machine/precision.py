"""Mixed precision."""

from __future__ import annotations

import torch

TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context in which forward passes run in `precision`, a key of TYPES; weights and sums stay float32."""
    dtype = TYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
