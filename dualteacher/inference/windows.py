"""Predicting an image of any size in overlapping windows, in memory that grows with its width alone.

Sums are kept of what the windows below or beside will still add to: the overlap with the row of windows above, across
the image, and the window at hand. Windows are added in the order of `Predictor`, so the sums are the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dualteacher.inference.predictor import Predictor, to_tensor, window_starts


class Source(Protocol):
    """An image that gives its rows."""

    height: int
    width: int

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Pixels (bottom - top, W, 3) uint8; rows above `top` are not asked for again."""


class Band(NamedTuple):
    """Rows of the image from `top` on, finished."""

    top: int
    pixels: np.ndarray  # (n, W, 3) uint8
    labels: np.ndarray  # (n, W) uint8
    confidence: np.ndarray | None  # (n, W) uint8, 255 = sure


class Sweep:
    """From window to window, left to right and top to bottom.

    With one scale and no flip the windows' logits are averaged, as in `Predictor`; several views of a window are
    averaged as probabilities, and so are the windows then.
    """

    def __init__(
        self, predictor: Predictor, source: Source, window: int, stride: int, batch: int, confidence: bool
    ) -> None:
        self.source, self.batch, self.confidence = source, batch, confidence
        self.size = (min(window, source.height), min(window, source.width))
        self.tops = window_starts(source.height, window, stride)
        self.lefts = window_starts(source.width, window, stride)
        self.several = len(predictor.scales) > 1 or predictor.flip or predictor.scales[0] != 1
        # A whole window is shown as it is; a side that is shorter is rounded, as a small image's is.
        multiple = 1 if self.size == (window, window) and not self.several else predictor.inference.multiple
        alone = predictor.inference.model_copy(update={"mode": "whole", "resize": None, "multiple": multiple})
        self.predictor = Predictor(predictor.model, alone, predictor.scales, predictor.flip)
        self.device = predictor.model.mean.device
        self.covered_y = cover(source.height, self.tops, self.size[0])
        self.covered_x = cover(source.width, self.lefts, self.size[1])

    @torch.no_grad()
    def bands(self) -> Iterator[Band]:
        """The image from top to bottom, a band for each row of windows."""
        tall = self.size[0]
        ends = [*self.tops[1:], self.source.height]
        overlap = max([top + tall - end for top, end in zip(self.tops, ends, strict=True)])
        classes = self.predictor.model.num_classes
        carry = torch.empty((classes, overlap, self.source.width), device=self.device)
        carried = 0
        for top, end in zip(self.tops, ends, strict=True):
            pixels = self.source.rows(top, top + tall)
            yield self._band(pixels, top, end - top, carry, carried)
            carried = top + tall - end

    def _band(self, pixels: np.ndarray, top: int, final: int, carry: Tensor, carried: int) -> Band:
        """One row of windows. carry (C, ≥ carried, W): the sums of the rows above; it leaves with those for below."""
        (tall, wide), width = self.size, self.source.width
        labels = np.empty((final, width), np.uint8)
        confidence = np.empty((final, width), np.uint8) if self.confidence else None
        sums, seen, before = carry.new_empty((len(carry), tall, 0)), 0, 0
        ends = [*self.lefts[1:], width]
        for left, end, scores in zip(self.lefts, ends, self._scores(pixels), strict=True):
            fresh = carry.new_zeros((len(carry), tall, left + wide - seen))
            fresh[:, :carried] = carry[:, :carried, seen : left + wide]
            sums = torch.cat([sums[:, :, left - before :], fresh], 2)
            sums += scores
            done, seen, before = end - left, left + wide, left
            covered = torch.outer(self.covered_y[top : top + final], self.covered_x[left:end]).to(self.device)
            mean = sums[:, :final, :done] / covered
            labels[:, left:end] = mean.argmax(0).to("cpu", torch.uint8).numpy()
            if confidence is not None:
                sure = (mean if self.several else mean.softmax(0)).amax(0)
                confidence[:, left:end] = to_bytes(sure)
            carry[:, : tall - final, left:end] = sums[:, final:, :done]
        return Band(top, pixels[:final], labels, confidence)

    def _scores(self, pixels: np.ndarray) -> Iterator[Tensor]:
        """(C, h, w) of each window of the row, at the window's size."""
        for first in range(0, len(self.lefts), self.batch):
            lefts = self.lefts[first : first + self.batch]
            parts = to_tensor([pixels[:, left : left + self.size[1]] for left in lefts], self.device)
            if self.several:
                yield from (self.predictor.probabilities(part[None])[0] for part in parts)
            else:
                logits = self.predictor.logits(parts).float()
                yield from (
                    F.interpolate(one[None], self.size, mode="bilinear", align_corners=False)[0] for one in logits
                )


def cover(side: int, starts: Sequence[int], window: int) -> Tensor:
    """How many windows cover each place, (side,) float32."""
    count = torch.zeros(side)
    for start in starts:
        count[start : start + window] += 1
    return count


def to_bytes(confidence: Tensor) -> np.ndarray:
    """Probabilities → uint8, 255 · p rounded."""
    return (confidence * 255).round().to("cpu", torch.uint8).numpy()
