"""What the tests of the networks share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dualteacher import settings


def model(**changes: Any) -> settings.Model:
    """A small `model` section of params.yaml."""
    values: dict[str, Any] = {
        "architecture": "segformer",
        "backbone": "mit_b0",
        "weights": "none",
        "head_width": 16,
        "head_norm": "batch",
        "dropout": 0.1,
        "drop_path": 0.1,
        "freeze": "none",
        "recompute": False,
        "sync_norm": False,
    }
    return settings.Model.model_validate(values | changes)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def randomised(network: nn.Module) -> nn.Module:
    """Weights and running statistics that differ from every default, so that a lost tensor shows."""
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(0.5 + torch.rand_like(value) if value.ndim == 1 else torch.randn_like(value) * 0.1)
    return network.eval()
