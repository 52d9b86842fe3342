"""Options of `predict`; the weights file supplies the defaults."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dualteacher.settings import Inference
from dualteacher.settings.evaluation import Blend
from dualteacher.system.errors import UserError

LARGE = 4.0  # megapixels; larger images are predicted in windows, in bounded memory
SCALED = 50.0  # the same, for weights trained on images scaled down (`inference.resize`)
WINDOW = 512  # side in pixels, for weights whose `inference.mode` is not slide
NOT_IN_OUTPUTS = ("device", "batch", "every", "redo")  # do not affect outputs, except for rounding


@dataclass(frozen=True)
class Options:
    """The command line's options. None: the weights' default."""

    device: str = "auto"
    overlays: bool = True
    confidence: bool = False
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    precision: str = "float32"
    large: float | None = None  # megapixels above which to use windows
    window: int | None = None
    stride: int | None = None
    blend: Blend | None = None
    batch: int | None = None
    every: int = 1  # take every N-th frame of a video
    redo: bool = False

    def fingerprint(self, weights: str, palette: np.ndarray) -> str:
        """Hex digest of everything that affects the images' outputs. weights: the file's hash."""
        chosen = {name: value for name, value in asdict(self).items() if name not in NOT_IN_OUTPUTS}
        return hashlib.sha256(json.dumps([weights, chosen, palette.tolist()], sort_keys=True).encode()).hexdigest()


def inference(path: Path, description: Mapping[str, Any], options: Options) -> Inference:
    """Inference settings from the weights' description and the options; UserError if incomplete or inconsistent."""
    try:
        known = Inference.model_validate(description["inference"])
        palette(description["classes"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: contains no classes or inference settings; train it again") from None
    slides = known.mode == "slide"
    window = options.window or (known.window if slides else WINDOW)
    stride = options.stride or (known.stride if slides and options.window is None else max(1, window * 3 // 4))
    if stride > window:
        raise UserError(f"--stride {stride}: larger than the window ({window}), which would leave gaps")
    chosen = {"batch": options.batch or known.batch, "blend": options.blend or known.blend}
    return known.model_copy(update={"window": window, "stride": stride, **chosen})


def largest(options: Options, inference: Inference) -> float:
    """Megapixels up to which an image is predicted as a whole."""
    return options.large or (LARGE if inference.resize is None else SCALED)


def palette(classes: list[dict[str, Any]]) -> np.ndarray:
    """The classes' colours (256, 3) uint8; black for unused indices."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(classes)] = [entry["color"] for entry in classes]
    return colors
