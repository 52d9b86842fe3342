"""The blocks of a backbone, and what of it training leaves as it is (`model.freeze`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from timm.models import group_parameters
from torch import nn

from dualteacher.models import timm_backbones
from dualteacher.models.mix_transformer import MixTransformer
from dualteacher.system.errors import UserError


def layers(name: str, network: nn.Module) -> dict[str, int]:
    """Parameter's name → its layer: 0 is the stem, 1 the first block; what follows the blocks is in the last.

    Blocks as timm groups them for layer-wise learning rates. UserError if timm defines no such groups.
    """
    whole: Any = network if isinstance(network, MixTransformer) else timm_backbones.whole(name)
    try:
        groups = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
    except (AttributeError, NotImplementedError):
        raise UserError(
            f"model.backbone = {name}: timm does not say what its blocks are; set optimizer.layer_decay to 1.0 and"
            " model.freeze to none, backbone or backbone_norms"
        ) from None
    # Feature extractors join or prefix the names: stages_0.blocks.1, model.blocks.1.
    known = {_joined(key): layer for key, layer in groups.items()}
    names = [key for key, _ in network.named_parameters()]
    found = {key: known.get(_joined(key), known.get(_joined(key.removeprefix("model.")))) for key in names}
    last = max(layer for layer in found.values() if layer is not None)
    return {key: last if layer is None else layer for key, layer in found.items()}


def _joined(name: str) -> str:
    return name.replace(".", "_")


def is_norm(module: nn.Module) -> bool:
    """Whether it is a normalisation layer, recognised by "norm" in its class name."""
    return "norm" in type(module).__name__.lower()


def freeze(name: str, network: nn.Module, what: str | int) -> tuple[str, ...]:
    """Stop the gradients of a part of the backbone: `model.freeze`.

    Returns the names of the largest modules that are frozen whole, and of single parameters of others. UserError if
    there are fewer than `what` blocks.
    """
    if what == "none":
        return ()
    if what == "backbone":
        frozen = {key for key, _ in network.named_parameters()}
    elif what == "backbone_norms":
        frozen = {
            f"{place}.{key}" if place else key
            for place, module in network.named_modules()
            if is_norm(module)
            for key, _ in module.named_parameters(recurse=False)
        }
    else:
        by_layer = layers(name, network)
        count = max(by_layer.values())
        if int(what) > count:
            raise UserError(
                f"model.freeze = {what}: {name} has {count} blocks; set it to 1 … {count}, backbone or none"
            )
        frozen = {key for key, layer in by_layer.items() if layer <= int(what)}
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(key not in frozen)
    return tuple(largest(network, "", frozen))


def largest(module: nn.Module, place: str, frozen: set[str]) -> Iterator[str]:
    """Names of the largest modules all of whose parameters are frozen, and of single parameters of others.

    place: the module's own name, with which all names begin.
    """
    names = [key for key, _ in module.named_parameters(place)]
    if names and frozen.issuperset(names):
        yield place
        return
    yield from (key for key, _ in module.named_parameters(place, recurse=False) if key in frozen)
    for key, child in module.named_children():
        yield from largest(child, f"{place}.{key}" if place else key, frozen)
