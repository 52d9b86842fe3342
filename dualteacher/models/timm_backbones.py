"""timm's networks as feature extractors: pyramids and plain Vision Transformers, of any image size.

A plain ViT gives four evenly spaced blocks, each after the final normalisation, as DINOv2's own evaluation takes them.
A network that timm marks as of one fixed size is tried without that limit on the meta device, at two other sizes.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import sys
from functools import cache
from typing import Any

import timm
import torch
from timm.models._features import FeatureGetterNet
from timm.models._registry import is_model_in_modules
from timm.models.beit import Beit
from torch import Tensor, nn

from dualteacher.models import bicubic
from dualteacher.models.beit import FreeBeit
from dualteacher.models.mix_transformer import VARIANTS
from dualteacher.system.errors import UserError

BLOCKS = 4  # feature maps of a plain ViT
FREE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})  # timm's ways to say so
PATCHES = "patch_embed.proj.weight"
bicubic.install()
FAILURES = (TypeError, AssertionError, NotImplementedError, RuntimeError, ValueError, AttributeError, IndexError)


def create(name: str, drop_path: float = 0.0, output_stride: int = 32, **loading: Any) -> nn.Module:
    """timm's feature extractor, without the classifier. loading: timm's `pretrained`, `cache_dir` and `in_chans`.

    UserError if timm does not know the name, cannot extract features, or fixes the image size.
    """
    check(name)
    if not _on_trial(name):
        return _features(name, drop_path, output_stride, loading)
    options, depth, _ = _free(name)
    if not depth:
        return _features(name, drop_path, output_stride, options | loading)
    if output_stride != 32:
        raise UserError(
            f"model.backbone = {name}: its feature maps all have one stride, deeplabv3plus needs two;"
            " set model.architecture to dpt"
        )
    return _blocks(name, depth, {"drop_path_rate": drop_path} | options | loading)


def multiple(name: str) -> int:
    """The sides of images must be multiples of this: the patch size, 4 for Swin; 1 if any size will do."""
    return _free(name)[2] if _on_trial(name) else 1


def is_channels_last(network: nn.Module) -> bool:
    """Whether its maps are (B, h, w, C)."""
    return str(getattr(network, "output_fmt", "NCHW")).rpartition(".")[2] == "NHWC"


def _on_trial(name: str) -> bool:
    """Whether `_free` looks at it: a network that timm marks as of one fixed size, or a NaFlex ViT."""
    config = timm.models.get_pretrained_cfg(name)
    flexible = is_model_in_modules(name.partition(".")[0], ("naflexvit",))
    return flexible or (config is not None and bool(config.fixed_input_size))


def _features(name: str, drop_path: float, output_stride: int, options: dict[str, Any]) -> nn.Module:
    options = {"features_only": True} | options
    if output_stride != 32:
        options["output_stride"] = output_stride
    try:
        try:
            return timm.create_model(name, drop_path_rate=drop_path, **options)
        except TypeError as error:
            if "drop_path_rate" not in str(error):
                raise
            return timm.create_model(name, **options)
    except (TypeError, AssertionError, NotImplementedError, RuntimeError) as error:
        without = f" at output stride {output_stride}" if output_stride != 32 else ""
        raise UserError(
            f"model.backbone = {name}: timm cannot extract feature maps{without} ({_reason(error)});"
            " choose another backbone"
        ) from None


def _blocks(name: str, depth: int, options: dict[str, Any]) -> nn.Module:
    """A plain ViT that returns the maps of evenly spaced blocks: 2, 5, 8 and 11 of 12, counted from 0."""
    network = timm.create_model(name, num_classes=0, **options)
    chosen = [depth * (k + 1) // BLOCKS - 1 for k in range(BLOCKS)]
    return FreeBeit(network, chosen) if isinstance(network, Beit) else FeatureGetterNet(network, chosen, norm=True)


@cache
def _free(name: str) -> tuple[dict[str, Any], int, int]:
    """(timm's options that free the image size, blocks of a plain ViT or 0, `multiple`). UserError if none."""
    reasons = []
    for options in FREE:
        try:
            with torch.device("meta"):
                network = timm.create_model(name, features_only=True, **options).eval()
            reductions = network.feature_info.reduction()
            if isinstance(network, FeatureGetterNet) and len(reductions) > 1 and len(set(reductions)) == 1:
                depth = len(network.model.feature_info)
                with torch.device("meta"):
                    network = _blocks(name, depth, options).eval()
                _try(network, reductions[0])
                return options, depth, reductions[0]
            return options, 0, _try(network, reductions[0], reductions[-1])
        except FAILURES as error:
            reasons.append(_reason(error))
    raise UserError(
        f"model.backbone = {name}: accepts images of one fixed size only ({reasons[-1]}); choose another backbone"
    )


def _try(network: nn.Module, *multiples: int) -> int:
    """The first of these of which a meta network takes any multiples as sides. Raises what the network raises."""
    for choice in multiples:
        try:
            for height, width in ((97, 161), (131, 70)):
                network(torch.empty(1, 3, *(-(-side // choice) * choice for side in (height, width)), device="meta"))
            return choice
        except FAILURES:
            if choice == multiples[-1]:
                raise
    raise AssertionError("no multiples")


def translated(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A plain ViT's tensors under timm's names, translated by timm's own rules for that family.

    They know Facebook's DINOv2 and DINOv3, and bring position embeddings to the grid of the backbone. Other networks
    and states without position embeddings or patches come back as they are, as do those that the rules fail on.
    """
    weight = state.get(PATCHES)
    if weight is None or not _on_trial(name) or not _free(name)[1]:
        return state
    network = whole(name, weight.shape[1]) if weight.ndim == 4 else whole(name)
    rules = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if rules is None or weight.shape != network.get_parameter(PATCHES).shape:  # timm would resample the patches
        return state
    with contextlib.redirect_stdout(io.StringIO()):  # timm prints
        try:
            return dict(rules(dict(state), network))
        except (*FAILURES, KeyError):
            return state


@cache
def whole(name: str, bands: int = 3) -> nn.Module:
    """timm's classification network for images of `bands` channels, on the meta device."""
    with torch.device("meta"):
        return timm.create_model(name, in_chans=bands)


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def check(name: str) -> None:
    """UserError unless timm knows the name, with or without a pretrained tag (resnet50.a1_in1k)."""
    if not timm.is_model(name):
        base = name.partition(".")[0]
        near = difflib.get_close_matches(base, [*VARIANTS, *timm.list_models()], n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "use mit_b0 … mit_b5 or a backbone that timm lists"
        raise UserError(f"model.backbone = {name}: unknown; {hint}")
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError:
        base = name.partition(".")[0]
        known = ", ".join(timm.list_pretrained(f"{base}.*")) or "none"
        raise UserError(f"model.backbone = {name}: {base} has no such pretrained tag; known: {known}") from None
