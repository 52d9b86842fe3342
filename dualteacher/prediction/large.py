"""Predict images too large for one pass, window by window; see inference/windows.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dualteacher.inference.predictor import Predictor, to_tensor, upsampled
from dualteacher.inference.windows import Grid, mean_scores


class RowSource(Protocol):
    """An image that is read by rows."""

    height: int
    width: int

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Levels (bottom - top, W, C); rows above `top` are not requested again."""


class Band(NamedTuple):
    """n finished rows of an image, starting at row `top`."""

    top: int
    pixels: np.ndarray  # (n, W, C) levels
    labels: np.ndarray  # (n, W) uint8
    confidence: np.ndarray | None  # (n, W) float32, the probability of the label
    probabilities: np.ndarray | None = None  # (C, n, W) float32


class Sweep:
    """Predicts an image band by band.

    With one view, overlapping windows are averaged as logits, as in `Predictor`; with several views (scales, flips),
    views and windows are averaged as probabilities.
    """

    def __init__(
        self, predictor: Predictor, source: RowSource, window: int, stride: int, batch: int,
        confidence: bool, probabilities: bool = False,
    ) -> None:  # fmt: skip
        self.source, self.batch, self.confidence, self.all = source, batch, confidence, probabilities
        self.grid = Grid(source.height, source.width, window, stride, predictor.inference.blend)
        self.several = len(predictor.scales) > 1 or predictor.flip or predictor.scales[0] != 1
        # Full-size windows are not resized; windows with a shorter side are rounded like small images.
        multiple = 1 if self.grid.window == (window, window) and not self.several else predictor.inference.multiple
        alone = predictor.inference.model_copy(update={"mode": "whole", "resize": None, "multiple": multiple})
        self.predictor = Predictor(predictor.model, alone, predictor.scales, predictor.flip)

    @torch.no_grad()
    def bands(self) -> Iterator[Band]:
        """Yield one band per row of windows, from top to bottom."""
        width = self.source.width
        pixels = np.empty((0, width, 0), np.uint8)

        def rows(top: int, bottom: int) -> np.ndarray:
            nonlocal pixels
            pixels = self.source.rows(top, bottom)
            return pixels

        labels, confidence, every = np.empty((0, width), np.uint8), None, None
        for top, left, mean in mean_scores(self.grid, rows, self._scores):
            height, stop = mean.shape[-2], left + mean.shape[-1]
            if left == 0:
                labels = np.empty((height, width), np.uint8)
                confidence = np.empty((height, width), np.float32) if self.confidence else None
                every = np.empty((len(mean), height, width), np.float32) if self.all else None
            labels[:, left:stop] = mean.argmax(0).to("cpu", torch.uint8).numpy()
            if confidence is not None:
                found = mean if self.several else mean.softmax(0)
                confidence[:, left:stop] = found.amax(0).cpu().numpy()
                if every is not None:
                    every[..., left:stop] = found.cpu().numpy()
            if stop == width:
                yield Band(top, pixels[:height], labels, confidence, every)

    def _scores(self, pixels: np.ndarray, lefts: Sequence[int]) -> Iterator[Tensor]:
        """Scores (C, h, w) of each window of a row, at the window's size."""
        for first in range(0, len(lefts), self.batch):
            starts = lefts[first : first + self.batch]
            parts = to_tensor([pixels[:, left : left + self.grid.window[1]] for left in starts], self.predictor.device)
            if self.several:
                yield from (self.predictor.probabilities(part[None])[0] for part in parts)
            else:
                yield from (upsampled(one[None], self.grid.window)[0] for one in self.predictor.logits(parts))
