"""Gradient checkpointing of a backbone (`model.recompute`): the backward pass computes each block's activations again.

The same numbers for less memory and one more forward pass. On in train mode only.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dualteacher.system.errors import UserError


def check(name: str, network: nn.Module) -> None:
    """UserError if timm cannot recompute the backbone, or if that would change results."""
    if not switches(network):
        raise UserError(f"model.recompute: timm cannot recompute {name}; set it to false")
    if any(isinstance(module, _BatchNorm) and learns(module) for module in network.modules()):
        raise UserError(
            f"model.recompute: {name} has batch normalisation, and a second pass would update its running statistics"
            " twice; set it to false, or model.freeze to backbone_norms"
        )


def learns(norm: _BatchNorm) -> bool:
    """Whether training changes it; see `model.freeze`."""
    return not norm.affine or norm.weight.requires_grad


def switch(network: nn.Module, on: bool) -> None:
    for module in switches(network):
        module.grad_checkpointing = on


def switches(network: nn.Module) -> list[Any]:
    """The modules with timm's switch; of nested ones the innermost, so that no block is computed three times."""
    found = {module for module in network.modules() if hasattr(module, "grad_checkpointing")}
    return [module for module in network.modules() if found.intersection(module.modules()) == {module}]


def recomputed(network: nn.Module) -> list[nn.Module]:
    """The modules that are computed again, whose inputs are kept. For those without timm's `blocks`, their children."""
    active = [module for module in switches(network) if module.grad_checkpointing]
    return [block for module in active for block in getattr(module, "blocks", module.children())]
