"""How to predict: what the command line says, and what the weights say where it is silent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dualteacher.settings import Inference
from dualteacher.system.errors import UserError

LARGE = 4.0  # megapixels: what has more is predicted in windows, in bounded memory,
SCALED = 50.0  # but not a photo that the network is to see scaled down, as it was in training
WINDOW = 512  # of a large image, for weights that were trained to see whole images
NOT_IN_OUTPUTS = ("device", "batch", "every", "redo")  # options that the outputs do not depend on, but for rounding


@dataclass(frozen=True)
class Options:
    """The command line's. None: as the weights say."""

    device: str = "auto"
    overlays: bool = True
    confidence: bool = False
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    precision: str = "float32"
    large: float | None = None  # megapixels; what has more is predicted in windows
    window: int | None = None
    stride: int | None = None
    batch: int | None = None
    every: int = 1  # of a video's frames
    redo: bool = False

    def fingerprint(self, weights: str) -> str:
        """Hex digest of what the outputs depend on; weights: the file's hash."""
        chosen = {name: value for name, value in asdict(self).items() if name not in NOT_IN_OUTPUTS}
        return hashlib.sha256(json.dumps([weights, chosen], sort_keys=True).encode()).hexdigest()


def inference(path: Path, description: Mapping[str, Any], options: Options) -> Inference:
    """How the weights of a file see an image; UserError where the file does not say it, or the options clash."""
    try:
        known = Inference.model_validate(description["inference"])
        palette(description["classes"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: does not say its classes or how it sees an image; train it again") from None
    slides = known.mode == "slide"
    window = options.window or (known.window if slides else WINDOW)
    stride = options.stride or (known.stride if slides and options.window is None else max(1, window * 3 // 4))
    if stride > window:
        raise UserError(f"--stride {stride}: at most the window's side, {window}, or there would be gaps")
    return known.model_copy(update={"window": window, "stride": stride, "batch": options.batch or known.batch})


def largest(options: Options, inference: Inference) -> float:
    """Megapixels of the largest image that is predicted as a whole."""
    return options.large or (LARGE if inference.resize is None else SCALED)


def palette(classes: list[dict[str, Any]]) -> np.ndarray:
    """The classes' colours (256, 3) uint8, black behind them."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(classes)] = [entry["color"] for entry in classes]
    return colors
