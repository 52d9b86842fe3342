"""Backbones by name: Mix Transformers, and any timm model with multi-scale features.

A backbone without feature maps at the head's strides is refused with a UserError.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath
from torch import Tensor, nn

from dualteacher.models.mix_transformer import VARIANTS, MixTransformer
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError

# Strides of the feature maps that a head takes, finest first; for DeepLabV3+ the backbone ends at stride 16.
STRIDES = {"segformer": (4, 8, 16, 32), "deeplabv3plus": (4, 16)}


@dataclass(frozen=True)
class Backbone:
    """A network from a normalised image to a list of feature maps, and what the head needs to know about it."""

    network: nn.Module
    levels: tuple[int, ...]  # indices of the maps that the head takes, finest first
    channels: tuple[int, ...]  # of these maps
    mean: tuple[float, ...]  # of the pretraining images, RGB in [0, 1]
    std: tuple[float, ...]


def create(name: str, architecture: str, drop_path: float) -> Backbone:
    """A randomly initialised backbone for a head. UserError if the name is unknown or it does not fit the head."""
    output_stride = STRIDES[architecture][-1]
    network: Any
    if name in VARIANTS:
        network = MixTransformer(name, drop_path=drop_path, output_stride=output_stride)
        reductions, channels = list(network.reductions), list(network.channels)
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    else:
        network = _create_timm(name, drop_path, output_stride)
        reductions, channels = network.feature_info.reduction(), network.feature_info.channels()
        mean, std = _statistics(name)
    levels = _levels(name, architecture, reductions)
    if drop_path > 0 and not any(isinstance(module, DropPath) for module in network.modules()):
        logger.warning(f"model.drop_path = {drop_path} has no effect: {name} has no residual paths to drop")
    return Backbone(network, levels, tuple(channels[level] for level in levels), mean, std)


def _levels(name: str, architecture: str, reductions: list[int]) -> tuple[int, ...]:
    """Index of the deepest map at each of the head's strides."""
    wanted = STRIDES[architecture]
    if missing := [stride for stride in wanted if stride not in reductions]:
        raise UserError(
            f"model.backbone = {name}: {architecture} needs feature maps at strides {_listed(wanted)},"
            f" this backbone has {_listed(reductions)} (missing: {_listed(missing)}); choose another backbone"
        )
    return tuple(max(i for i, stride in enumerate(reductions) if stride == want) for want in wanted)


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))


def _create_timm(name: str, drop_path: float, output_stride: int) -> nn.Module:
    """timm's feature extractor, without the classifier."""
    _check_timm(name)
    options: dict[str, Any] = {"features_only": True}
    if output_stride != 32:
        options["output_stride"] = output_stride
    try:
        try:
            network = timm.create_model(name, drop_path_rate=drop_path, **options)
        except TypeError as error:
            if "drop_path_rate" not in str(error):
                raise
            network = timm.create_model(name, **options)
    except (TypeError, AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        without = f" at output stride {output_stride}" if output_stride != 32 else ""
        raise UserError(
            f"model.backbone = {name}: timm cannot extract feature maps{without} ({reason}); choose another backbone"
        ) from None
    if str(getattr(network, "output_fmt", "NCHW")).rpartition(".")[2] != "NCHW":
        raise UserError(f"model.backbone = {name}: its feature maps are channels-last; choose another backbone")
    return network


def _check_timm(name: str) -> None:
    """UserError unless timm knows the name, with or without a pretrained tag (resnet50.a1_in1k)."""
    if not timm.is_model(name):
        base = name.partition(".")[0]
        near = difflib.get_close_matches(base, [*VARIANTS, *timm.list_models()], n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "use mit_b0 … mit_b5 or a backbone that timm lists"
        raise UserError(f"model.backbone = {name}: unknown; {hint}")
    try:
        config = timm.models.get_pretrained_cfg(name)
    except RuntimeError:
        base = name.partition(".")[0]
        raise UserError(
            f"model.backbone = {name}: {base} has no such pretrained tag;"
            f" known: {_listed(timm.list_pretrained(f'{base}.*')) or 'none'}"
        ) from None
    if config is not None and config.fixed_input_size:
        raise UserError(
            f"model.backbone = {name}: accepts images of one fixed size only; choose a convolutional backbone or one of"
            " mit_b0 … mit_b5"
        )


def _statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of a timm backbone's pretraining images, RGB in [0, 1]."""
    config = timm.models.get_pretrained_cfg(name)
    return (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD) if config is None else (config.mean, config.std)


def expected(name: str) -> dict[str, Tensor]:
    """A backbone's state dict under our names, on the meta device. The same for all heads and output strides."""
    with torch.device("meta"):
        network = MixTransformer(name) if name in VARIANTS else _create_timm(name, 0.0, 32)
    return network.state_dict()


def classifier(name: str) -> dict[str, Tensor]:
    """The state dict of timm's classification network, in layer order, on the meta device."""
    _check_timm(name)
    with torch.device("meta"):
        return timm.create_model(name).state_dict()
