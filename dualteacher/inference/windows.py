"""Overlapping windows over an image of any size, in memory that grows with its width alone.

`mean_scores` is the one implementation of sliding windows. The predictor uses it for evaluation in mode `slide`, and
`predict` for images too large for one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows start so that they cover `side`; the last one ends at the border."""
    last = max(0, side - window)
    return sorted({*range(0, last, stride), last})


class Grid:
    """Windows of side `window` every `stride` pixels over an image; smaller images have one, of their own size."""

    def __init__(self, height: int, width: int, window: int, stride: int) -> None:
        self.height, self.width = height, width
        self.window = (min(window, height), min(window, width))
        self.tops = window_starts(height, window, stride)
        self.lefts = window_starts(width, window, stride)


class Block(NamedTuple):
    """The finished scores of a rectangle whose upper left corner is (top, left)."""

    top: int
    left: int
    scores: Tensor  # (…, h, w)


def mean_scores(
    grid: Grid, rows: Callable[[int, int], Any], score: Callable[[Any, Sequence[int]], Iterable[Tensor]]
) -> Iterator[Block]:
    """Mean of the windows' scores at every pixel, as rectangles from left to right and top to bottom.

    rows(top, bottom): whatever `score` takes for these rows of the image; asked for once for each row of windows.
    score(rows, lefts): scores (…, h, w) of the windows that start at `lefts`, in order, each at the window's size.

    Only the sums that later windows still add to are kept: the overlap with the row of windows above, over the whole
    width, and the current window.
    """
    (tall, wide), width = grid.window, grid.width
    covered_y, covered_x = _cover(grid.height, grid.tops, tall), _cover(width, grid.lefts, wide)
    ends = [*grid.tops[1:], grid.height]
    overlap = max(top + tall - end for top, end in zip(grid.tops, ends, strict=True))
    carry: Tensor | None = None  # (…, overlap, W): sums of the rows above
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
            sums += scores
            done, seen, before = stop - left, left + wide, left
            count = torch.outer(covered_y[top:end], covered_x[left:stop]).to(scores.device)
            yield Block(top, left, sums[..., :final, :done] / count)
            carry[..., : tall - final, left:stop] = sums[..., final:, :done]
        carried = tall - final


def _cover(side: int, starts: Sequence[int], window: int) -> Tensor:
    """How many windows cover each place, (side,) float32."""
    count = torch.zeros(side)
    for start in starts:
        count[start : start + window] += 1
    return count
