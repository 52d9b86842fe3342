"""Rasterise shapes by one rule for all formats.

A pixel is inside if its centre is; rings count by even-odd, so a ring inside another is a hole. A centre exactly on a
left or top edge is inside, on a right or bottom edge outside: neighbours that share an edge neither overlap nor leave a
gap. Several polygons of one shape are united. Overlaps: in drawing order, or smaller areas over larger ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dualteacher.data.formats.annotations.shapes import Shape, Size, Wrong

RULE = "a pixel is inside if its centre is; even-odd for holes; overlaps: "
FARTHEST = 1e9  # pixels; beyond, arithmetic is no longer exact
OVERLAPS = {True: "smaller areas over larger ones", False: "later shapes over earlier ones"}


def fill(rings: Sequence[np.ndarray], size: Size) -> np.ndarray:
    """The pixels (H, W) bool inside rings (n, 2) of x, y."""
    height, width = size
    start, end = np.concatenate(rings), np.concatenate([np.roll(ring, -1, 0) for ring in rings])
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first = np.ceil(low - 0.5).clip(0, height).astype(int)  # rows whose centres are at or below the upper end
    number = np.ceil(high - 0.5).clip(0, height).astype(int) - first
    edge = np.repeat(np.arange(len(start)), number)
    row = np.arange(number.sum()) - np.repeat(number.cumsum() - number, number) + first[edge]
    (x, y), (across, down) = start[edge].T, (end - start)[edge].T
    crossing = x + (row + 0.5 - y) / down * across
    column = np.ceil(crossing - 0.5).clip(0, width).astype(int)
    toggles = np.zeros((height, width + 1), np.uint8)
    np.bitwise_xor.at(toggles, (row, column), np.uint8(1))
    return np.bitwise_xor.accumulate(toggles[:, :width], 1).astype(bool)


def paint(shapes: Sequence[Shape], size: Size, value_of: Mapping[str, int], smaller_on_top: bool) -> np.ndarray:
    """Draw an image's shapes → (H, W) uint8; 0 where there is none."""
    drawn = [(value_of[shape.label], *_inside(shape, size)) for shape in shapes]
    if smaller_on_top:
        drawn.sort(key=lambda item: -int(item[1].sum()))
    mask = np.zeros(size, np.uint8)
    for value, inside, (top, left) in drawn:
        mask[top : top + inside.shape[0], left : left + inside.shape[1]][inside] = value
    return mask


def _inside(shape: Shape, size: Size) -> tuple[np.ndarray, tuple[int, int]]:
    """(pixels inside (h, w) bool, (top, left)), within the shape's bounds."""
    if shape.mask is not None:
        inside = shape.mask(size)
        if inside.shape != size:
            raise Wrong(f"a mask of {inside.shape[0]}×{inside.shape[1]} pixels in an image of {size[0]}×{size[1]}")
        return inside, (0, 0)
    corners = np.concatenate([ring for polygon in shape.polygons for ring in polygon])
    if not (np.abs(corners) < FARTHEST).all():
        raise Wrong("a shape reaches too far beyond the image")
    left, top = np.floor(corners.min(0)).clip(0, size[::-1]).astype(int)
    right, bottom = np.ceil(corners.max(0)).clip(0, size[::-1]).astype(int)
    inside = np.zeros((max(0, bottom - top), max(0, right - left)), bool)
    for polygon in shape.polygons:
        inside |= fill([ring - [left, top] for ring in polygon], inside.shape)
    return inside, (int(top), int(left))
