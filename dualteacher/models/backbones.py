"""Backbones by name: Mix Transformers, and any timm model with feature maps (timm_backbones.py).

A backbone without feature maps at strides that the head can take is refused with a UserError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath
from torch import Tensor, nn

from dualteacher.models import timm_backbones
from dualteacher.models.mix_transformer import VARIANTS, MixTransformer
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError

# Strides of the feature maps that a head takes, finest first; for DeepLabV3+ the backbone ends at stride 16.
STRIDES = {"segformer": (4, 8, 16, 32), "deeplabv3plus": (4, 16), "dpt": (4, 8, 16, 32)}
ANY = ("segformer", "dpt")  # heads that also take other strides: a shorter pyramid, or a plain ViT's one stride


@dataclass(frozen=True)
class Backbone:
    """A network from a normalised image to a list of feature maps, and what the head needs to know about it."""

    network: nn.Module
    levels: tuple[int, ...]  # indices of the maps that the head takes, finest first
    channels: tuple[int, ...]  # of these maps
    strides: tuple[int, ...]  # of these maps; all the same for a plain ViT
    multiple: int  # the sides of its images must be multiples of this
    channels_last: bool  # the maps are (B, h, w, C)
    mean: tuple[float, ...]  # of the pretraining images, RGB in [0, 1]
    std: tuple[float, ...]


def create(name: str, architecture: str, drop_path: float, bands: int = 3) -> Backbone:
    """A randomly initialised backbone for images of `bands` channels and a head.

    UserError if the name is unknown or it does not fit the head.
    """
    output_stride = STRIDES[architecture][-1]
    network: Any
    if name in VARIANTS:
        network = MixTransformer(name, drop_path=drop_path, output_stride=output_stride, bands=bands)
        reductions, channels = list(network.reductions), list(network.channels)
        mean, std, multiple = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, 1
    else:
        options = {} if bands == 3 else {"in_chans": bands}
        network = timm_backbones.create(name, drop_path, output_stride, **options)
        reductions, channels = network.feature_info.reduction(), network.feature_info.channels()
        mean, std = _statistics(name)
        multiple = timm_backbones.multiple(name)
    plain = len(reductions) == timm_backbones.BLOCKS and len(set(reductions)) == 1
    levels = tuple(range(len(reductions))) if plain else _levels(name, architecture, reductions)
    if drop_path > 0 and not any(isinstance(module, DropPath) for module in network.modules()):
        logger.warning(f"model.drop_path = {drop_path} has no effect: {name} has no residual paths to drop")
    return Backbone(
        network,
        levels,
        tuple(channels[level] for level in levels),
        tuple(reductions[level] for level in levels),
        multiple,
        timm_backbones.is_channels_last(network),
        mean,
        std,
    )


def _levels(name: str, architecture: str, reductions: Sequence[int]) -> tuple[int, ...]:
    """Index of the deepest map at each of the head's strides, or of the finest four if the head takes any."""
    wanted = STRIDES[architecture]
    if missing := [stride for stride in wanted if stride not in reductions]:
        others = sorted({stride for stride in reductions if stride >= wanted[0]})[: len(wanted)]
        if architecture not in ANY or len(others) < 2:
            raise UserError(
                f"model.backbone = {name}: {architecture} needs feature maps at strides {_listed(wanted)},"
                f" this backbone has {_listed(reductions)} (missing: {_listed(missing)}); choose another backbone"
            )
        wanted = tuple(others)
    return tuple(max(i for i, stride in enumerate(reductions) if stride == want) for want in wanted)


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))


def _statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of a timm backbone's pretraining images, RGB in [0, 1]."""
    config = timm.models.get_pretrained_cfg(name)
    return (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD) if config is None else (config.mean, config.std)


def expected(name: str) -> dict[str, Tensor]:
    """A backbone's state dict under our names, on the meta device. The same for all heads and output strides."""
    with torch.device("meta"):
        network = MixTransformer(name) if name in VARIANTS else timm_backbones.create(name)
    return network.state_dict()


def classifier(name: str) -> dict[str, Tensor]:
    """The state dict of timm's classification network, in layer order, on the meta device."""
    timm_backbones.check(name)
    with torch.device("meta"):
        return timm.create_model(name).state_dict()
