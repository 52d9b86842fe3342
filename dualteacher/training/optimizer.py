"""The optimiser and its learning-rate schedule."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dualteacher.core import learning_rate
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Optimizer


def make_optimizer(networks: Sequence[Segmenter], optimizer: Optimizer, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW or SGD over the networks' parameter groups, with one fused kernel per group."""
    rates = (learning_rate, optimizer.head_multiplier, optimizer.weight_decay, optimizer.layer_decay)
    groups = [group for network in networks for group in network.parameter_groups(*rates)]
    if optimizer.name == "adamw":
        betas = (optimizer.betas[0], optimizer.betas[1])
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    return torch.optim.SGD(groups, lr=learning_rate, momentum=optimizer.momentum, fused=True)


def rate_factor(optimizer: Optimizer, step: int, steps: int) -> float:
    """Factor on every group's base learning rate at `step` of a run of `steps`."""
    horizon = optimizer.horizon or steps
    return learning_rate.poly_warmup(step, 1.0, optimizer.ramp_steps, optimizer.ramp_ratio, horizon, optimizer.power)
