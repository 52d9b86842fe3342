"""COCO's segmentations → masks, pixel for pixel as `COCO.annToMask` of pycocotools.

A polygon's outline is walked at five times the resolution. Where it passes a column's centre, the pixels of the column
from there on change sides. That is COCO's own rule; pictures drawn by Pillow or scikit-image differ from it by a pixel
along outlines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dualteacher.data.formats.annotations import run_lengths
from dualteacher.data.formats.annotations.shapes import Size, Wrong

FINER = 5.0  # of the grid on which outlines are walked


def paint(into: np.ndarray, segmentation: Any, value: int) -> None:
    """Set the pixels of a `segmentation`, polygons or run lengths, in the mask `into` (H, W); Wrong if damaged."""
    height, width = into.shape
    if isinstance(segmentation, dict):
        into[run_lengths.coco(segmentation.get("counts"), (height, width))] = value
        return
    for corners in segmentation:
        first, inside = polygon(np.asarray(corners, np.float64), (height, width))
        into[:, first : first + inside.shape[1]][inside] = value


def polygon(corners: np.ndarray, size: Size) -> tuple[int, np.ndarray]:
    """(first column, pixels inside (H, columns) bool) of an outline x0, y0, x1, y1, …"""
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
        raise Wrong("a polygon is not a list of at least three points x, y")
    height, width = size
    columns, rows = crossings(corners.reshape(-1, 2), height, width)
    if not len(columns):
        return 0, np.zeros((height, 0), bool)
    first, last = int(columns.min()), int(columns.max())
    cells = (columns - first) * height + rows  # column by column; a row below the last is the next column's start
    changes = np.bincount(cells, minlength=(last - first + 1) * height + 1)[:-1]
    inside = np.cumsum(changes) % 2 == 1
    return first, inside.reshape(-1, height).T


def crossings(points: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(columns, rows) of the pixels from which on a column changes sides. points: (N, 2) float64, x and y."""
    along, across = walk((FINER * points + 0.5).astype(np.int64))
    step = np.flatnonzero(along[1:] != along[:-1])
    column = (np.minimum(along[step], along[step + 1]) + 0.5) / FINER - 0.5
    row = (np.minimum(across[step], across[step + 1]) + 0.5) / FINER - 0.5
    centre = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    return column[centre].astype(np.int64), np.ceil(np.clip(row[centre], 0, height)).astype(np.int64)


def walk(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every point on a closed outline, side by side, from one corner to the next."""
    start, end = corners, np.roll(corners, -1, 0)
    span = np.abs(end - start)
    flat = span[:, 0] >= span[:, 1]
    length = span.max(1)
    # A side is always computed from its left or upper end, and the other coordinate rounded.
    lead = np.where(flat, end[:, 0] - start[:, 0], end[:, 1] - start[:, 1])
    back = lead < 0
    low = np.where(back[:, None], end, start)
    other = np.where(flat, end[:, 1] - start[:, 1], end[:, 0] - start[:, 0]) * np.where(back, -1, 1)
    slope = other / np.maximum(length, 1)
    side = np.repeat(np.arange(len(corners)), length + 1)
    done = np.arange(len(side)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    t = np.where(back[side], length[side] - done, done)
    main = low[side, np.where(flat, 0, 1)[side]] + t
    rounded = (low[side, np.where(flat, 1, 0)[side]] + slope[side] * t + 0.5).astype(np.int64)
    return np.where(flat[side], main, rounded), np.where(flat[side], rounded, main)


def class_map(objects: Sequence[tuple[float, int, Any]], size: Size) -> np.ndarray:
    """uint8 (H, W) of objects (area, class index, segmentation): smaller ones over larger ones, else 0.

    The published annotations overlap and do not say which object is in front.
    """
    mask = np.zeros(size, np.uint8)
    for _, index, segmentation in sorted(objects, key=lambda one: -one[0]):
        paint(mask, segmentation, index)
    return mask
