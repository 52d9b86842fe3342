"""Recognise masks whose edges hold values between the classes': resized smoothly, anti-aliased or lossily compressed.

A class fills areas: its pixels have equal neighbours. An interpolated value stands at an edge, between a lower and a
higher one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

SIDE = 1024  # pixels of a mask that are looked at, from its middle
AREA = 0.25  # least share of an area's pixels whose neighbours are all equal
EDGE = 0.1  # largest such share of an interpolated value
BETWEEN = 0.5  # least share of an interpolated value's pixels between a lower and a higher one
MANY = 64  # values from which on few areas are suspicious; of fewer, all may be thin classes
FEWEST = 3  # interpolated values
SAME_VALUE, SAME_LOSSY, SAME_COLOR = 3, 8, 12  # lossy compression turns a class's value into others this close,
NOISE, RARER = 24, 20  # or this close and this many times rarer
APART = 2.5  # times that distance, at least, between the classes of lossy files without interpolated edges


class Texture(NamedTuple):
    """Pixels of each value: all, those with equal neighbours, and those between a lower and a higher one."""

    values: np.ndarray  # (n,) sorted
    pixels: np.ndarray  # (n, 3) int64

    def __add__(self, other: object) -> Texture:
        assert isinstance(other, Texture)
        values, place = np.unique(np.concatenate([self.values, other.values]), return_inverse=True)
        pixels = np.zeros((len(values), 3), np.int64)
        np.add.at(pixels, place, np.concatenate([self.pixels, other.pixels]))
        return Texture(values, pixels)

    def most(self, count: int) -> Texture:
        """Only the most frequent values."""
        kept = np.sort(np.argsort(-self.pixels[:, 0], kind="stable")[:count])
        return Texture(self.values[kept], self.pixels[kept])


NOTHING = Texture(np.zeros(0, np.int64), np.zeros((0, 3), np.int64))


def texture(values: np.ndarray, color: bool) -> Texture:
    """Look at a mask (H, W) of values or packed colours."""
    top, left = (max(0, (length - SIDE) // 2) for length in values.shape)
    values = values[top : top + SIDE, left : left + SIDE]
    # Interpolation is linear, so any linear function of the channels shows it.
    level = channels(values) @ np.array([3, 5, 2]) if color else values.astype(np.int64)
    low, high = ndimage.minimum_filter(level, 3), ndimage.maximum_filter(level, 3)
    found, place = np.unique(values.ravel(), return_inverse=True)
    kinds = (np.ones(level.shape, bool), low == high, (low < level) & (level < high))
    counts = [np.bincount(place[kind.ravel()], minlength=len(found)) for kind in kinds]
    return Texture(found.astype(np.int64), np.stack(counts, 1).astype(np.int64))


def channels(packed: np.ndarray) -> np.ndarray:
    """Packed colours (…) as int64 (…, 3)."""
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1).astype(np.int64)


def are_levels(seen: Texture) -> bool:
    """Whether there are many values of which few fill areas: grey levels of photos or probability maps."""
    number, flat, _ = seen.pixels.T
    return len(number) >= MANY and 4 * int((flat >= AREA * number).sum()) <= len(number)


def areas(seen: Texture, color: bool, lossy: bool = False) -> list[int] | None:
    """The values that fill areas, if the others are interpolated; None if the masks look like class masks.

    lossy: the files are of a format whose compression changes values, so others may also be noise about those.
    """
    seen = Texture(seen.values[seen.values >= 0], seen.pixels[seen.values >= 0])  # negative: no data
    number, flat, between = seen.pixels.T
    edge = (flat < EDGE * number) & (between >= BETWEEN * number)
    filled = flat >= AREA * number
    smooth = edge.sum() >= max(FEWEST, int(filled.sum())) and 2 * number[edge].sum() <= number.sum()
    if not smooth and not lossy:
        return None
    points = channels(seen.values) if color else seen.values[:, None]
    same = SAME_COLOR if color else SAME_LOSSY if lossy else SAME_VALUE
    kept: list[int] = []
    for place in np.flatnonzero(filled)[np.argsort(-number[filled], kind="stable")].tolist():
        distance = np.linalg.norm(points[kept] - points[place], axis=1)
        rarer = number[kept] >= RARER * number[place]
        if not ((distance <= same) | (distance <= NOISE) & rarer).any():
            kept.append(place)
    if len(kept) < 2 or (not smooth and not _stand_apart(points[kept], APART * same)) or len(kept) == len(number):
        return None
    return sorted(int(seen.values[place]) for place in kept)


def _stand_apart(points: np.ndarray, least: float) -> bool:
    """Whether no two of the points (n, d) are closer."""
    return all(np.linalg.norm(points[:i] - points[i], axis=1).min() >= least for i in range(1, len(points)))
