"""Backbones by name: Mix Transformers, and whatever timm offers with multi-scale features.

A head states which strides it wants; a backbone that cannot give them is refused here, in one line.
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

# Strides of the feature maps a head takes, finest first; DeepLabV3+ wants the backbone's end at stride 16.
STRIDES = {"segformer": (4, 8, 16, 32), "deeplabv3plus": (4, 16)}


@dataclass(frozen=True)
class Backbone:
    """A network that turns a normalised image into a list of feature maps, and what its head must know."""

    network: nn.Module
    levels: tuple[int, ...]  # which of the network's maps the head takes, finest first
    channels: tuple[int, ...]  # of these maps
    mean: tuple[float, ...]  # of the images the backbone was pretrained on, RGB in [0, 1]
    std: tuple[float, ...]


def create(name: str, architecture: str, drop_path: float) -> Backbone:
    """A randomly initialised backbone for a head; UserError if none has that name or it does not fit."""
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
        logger.warning(f"model.drop_path = {drop_path}: {name} has no residual paths to drop; it has no effect")
    return Backbone(network, levels, tuple(channels[level] for level in levels), mean, std)


def _levels(name: str, architecture: str, reductions: list[int]) -> tuple[int, ...]:
    """The deepest map of each stride that the head wants."""
    wanted = STRIDES[architecture]
    if missing := [stride for stride in wanted if stride not in reductions]:
        raise UserError(
            f"model.backbone = {name}: {architecture} needs feature maps at strides {_listed(wanted)},"
            f" this backbone gives {_listed(reductions)} (lacks {_listed(missing)}); choose another backbone"
        )
    return tuple(max(i for i, stride in enumerate(reductions) if stride == want) for want in wanted)


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))


def _create_timm(name: str, drop_path: float, output_stride: int) -> nn.Module:
    """timm's feature extractor; a classifier and what only it needs are left out by timm."""
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
            f"model.backbone = {name}: timm cannot give its feature maps{without} ({reason}); choose another backbone"
        ) from None
    if str(getattr(network, "output_fmt", "NCHW")).rpartition(".")[2] != "NCHW":
        raise UserError(f"model.backbone = {name}: its feature maps are channels-last; choose another backbone")
    return network


def _check_timm(name: str) -> None:
    """UserError unless timm knows the name, with or without a pretrained tag (resnet50.a1_in1k)."""
    if not timm.is_model(name):
        base = name.partition(".")[0]
        near = difflib.get_close_matches(base, [*VARIANTS, *timm.list_models()], n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "mit_b0 … mit_b5 or a backbone that timm lists"
        raise UserError(f"model.backbone = {name}: unknown; {hint}")
    try:
        config = timm.models.get_pretrained_cfg(name)
    except RuntimeError:
        base = name.partition(".")[0]
        raise UserError(
            f"model.backbone = {name}: {base} has no pretrained tag of that name;"
            f" known: {_listed(timm.list_pretrained(f'{base}.*')) or 'none'}"
        ) from None
    if config is not None and config.fixed_input_size:
        raise UserError(
            f"model.backbone = {name}: takes images of one fixed size only; choose a"
            " convolutional backbone or one of mit_b0 … mit_b5"
        )


def _statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of a timm backbone's training images."""
    config = timm.models.get_pretrained_cfg(name)
    return (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD) if config is None else (config.mean, config.std)


def expected(name: str) -> dict[str, Tensor]:
    """Names and shapes of a backbone's weights in our files, as tensors on the meta device.

    They do not depend on the head: another output stride changes no weight.
    """
    with torch.device("meta"):
        network = MixTransformer(name) if name in VARIANTS else _create_timm(name, 0.0, 32)
    return network.state_dict()


def classifier(name: str) -> dict[str, Tensor]:
    """The same of timm's whole classification network, in the order in which its layers are applied."""
    _check_timm(name)
    with torch.device("meta"):
        return timm.create_model(name).state_dict()
