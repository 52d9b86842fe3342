"""Learning-rate schedule: linear ramp, then polynomial decay."""

from __future__ import annotations


def poly_warmup(
    step: int, base_lr: float, warmup_steps: int, warmup_ratio: float, max_steps: int, power: float
) -> float:
    """Learning rate at `step` (counted from 0).

    Below `warmup_steps` the rate rises linearly from `warmup_ratio` · base_lr to base_lr:
    base_lr · (1 - (1 - step/warmup_steps) · (1 - warmup_ratio)). After that it is
    base_lr · (1 - step/max_steps)^power. It drops slightly at `warmup_steps`, as in the released code.
    """
    if step < warmup_steps:
        return base_lr * (1 - (1 - step / warmup_steps) * (1 - warmup_ratio))
    return base_lr * max(0.0, 1 - step / max_steps) ** power
