"""What the tests of the networks share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from torch import nn

from dualteacher import settings
from dualteacher.models import conversion, timm_backbones


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


TINY = {"embed_dim": 48, "depth": 4, "num_heads": 4}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """timm makes every network with TINY's sizes."""
    create, caches = timm.create_model, (timm_backbones._free, timm_backbones.whole, conversion._timm_names)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **(TINY | options)))
    yield
    for cache in caches:
        cache.cache_clear()


def randomised(network: nn.Module) -> nn.Module:
    """Weights and running statistics that differ from every default, so that a lost tensor shows."""
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(0.5 + torch.rand_like(value) if value.ndim == 1 else torch.randn_like(value) * 0.1)
    return network.eval()
