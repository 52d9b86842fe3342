"""Sliding windows over an image of any size. Memory grows with the image's width only, not its height.

Used by the predictor in mode `slide`, and by `predict` for images too large for one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dualteacher.settings.evaluation import Blend


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Start positions of windows that cover `side` pixels; the last window ends at the border."""
    last = max(0, side - window)
    return sorted({*range(0, last, stride), last})


class Grid:
    """Windows of side `window` every `stride` pixels. Along a side shorter than `window`: one, of that length.

    blend: whether all of a window counts alike, or less towards its edges, by a Hann function along either side.
    """

    def __init__(self, height: int, width: int, window: int, stride: int, blend: Blend = "mean") -> None:
        self.height, self.width, self.blend = height, width, blend
        self.window = (min(window, height), min(window, width))
        self.tops = window_starts(height, window, stride)
        self.lefts = window_starts(width, window, stride)

    def profiles(self) -> tuple[Tensor, Tensor]:
        """Weights of a window's rows and columns, (h,) and (w,); their product is a pixel's weight."""
        rows, columns = (torch.ones(side) if self.blend == "mean" else _hann(side) for side in self.window)
        return rows, columns


class WindowBlock(NamedTuple):
    """Final scores of a rectangle with upper left corner (top, left)."""

    top: int
    left: int
    scores: Tensor  # (…, h, w)


def mean_scores(
    grid: Grid, rows: Callable[[int, int], Any], score: Callable[[Any, Sequence[int]], Iterable[Tensor]]
) -> Iterator[WindowBlock]:
    """Weighted mean of the windows' scores at every pixel, as rectangles from left to right and top to bottom.

    rows(top, bottom): these rows of the image, in any form that `score` takes; called once per row of windows.
    score(rows, lefts): scores (…, h, w) of the windows that start at columns `lefts`, in order, at window size.

    Keeps only the sums that later windows add to: the overlap with the row of windows above, and the current window.
    """
    (tall, wide), width = grid.window, grid.width
    profiles = grid.profiles()
    covered_y, covered_x = _cover(grid.height, grid.tops, profiles[0]), _cover(width, grid.lefts, profiles[1])
    weight = None if grid.blend == "mean" else torch.outer(*profiles)
    ends = [*grid.tops[1:], grid.height]
    overlap = max(top + tall - end for top, end in zip(grid.tops, ends, strict=True))
    carry: Tensor | None = None  # (…, overlap, W): sums from the windows above
    carried = 0
    for top, end in zip(grid.tops, ends, strict=True):
        final = end - top
        sums: Tensor | None = None
        seen = before = 0
        columns = zip(grid.lefts, [*grid.lefts[1:], width], score(rows(top, top + tall), grid.lefts), strict=True)
        for left, stop, scores in columns:
            if carry is None:
                carry = scores.new_empty((*scores.shape[:-2], overlap, width))
            fresh = scores.new_zeros((*scores.shape[:-2], tall, left + wide - seen))
            fresh[..., :carried, :] = carry[..., :carried, seen : left + wide]
            sums = fresh if sums is None else torch.cat([sums[..., left - before :], fresh], -1)
            if weight is None:
                sums += scores
            else:
                weight = weight.to(scores.device)
                sums += scores * weight
            done, seen, before = stop - left, left + wide, left
            count = torch.outer(covered_y[top:end], covered_x[left:stop]).to(scores.device)
            yield WindowBlock(top, left, sums[..., :final, :done] / count)
            carry[..., : tall - final, left:stop] = sums[..., final:, :done]
        carried = tall - final


def _cover(side: int, starts: Sequence[int], profile: Tensor) -> Tensor:
    """Sum of the windows' weights at each position, (side,) float32."""
    total = torch.zeros(side)
    for start in starts:
        total[start : start + len(profile)] += profile
    return total


def _hann(side: int) -> Tensor:
    """sin² from edge to edge, nowhere 0, (side,) float32."""
    return torch.sin(torch.pi * (torch.arange(side) + 0.5) / side).square()
