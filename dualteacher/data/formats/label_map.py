"""Map the values or colours of the user's mask files to class indices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dualteacher import settings
from dualteacher.core.labels import IGNORE
from dualteacher.data.formats import interpolation, mask_files


class Indexed(NamedTuple):
    """Class indices uint8 (H, W), and what became of pixels whose value is not listed: they are IGNORE or `nearest`."""

    mask: np.ndarray
    unlisted: dict[str, int]  # pixels of each unlisted value; empty with a tolerance
    nearest: int = 0  # pixels that took the nearest listed value
    far: int = 0  # pixels farther than the tolerance from any


class LabelMap:
    """Converts mask values or colours to class indices, following `classes` and `ignore` in the settings."""

    def __init__(self, options: settings.Folder) -> None:
        listed = [entry.value for entry in options.classes]
        self.color = not isinstance(listed[0], int)
        values = [v if isinstance(v, int) else mask_files.pack_color(v) for v in [*listed, *options.ignore]]
        indices = [*range(len(listed)), *[IGNORE] * len(options.ignore)]
        shown = [self._format(value) for value in sorted(values)]
        if mask_files.NO_DATA not in values:
            values, indices = [*values, mask_files.NO_DATA], [*indices, IGNORE]
        self.tolerance = options.tolerance
        order = np.argsort(values)
        self._values = np.array(values, np.int32)[order]
        self._indices = np.array(indices, np.uint8)[order]
        self.allowed = ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")

    def index(self, values: np.ndarray, exact: bool = False) -> Indexed:
        """Convert values or packed colours (H, W). exact: without the tolerance, for a palette's indices."""
        place = np.searchsorted(self._values, values).clip(max=len(self._values) - 1)
        known = self._values[place] == values
        mask = np.where(known, self._indices[place], np.uint8(IGNORE))
        if known.all():
            return Indexed(mask, {})
        found, where, numbers = np.unique(values[~known], return_inverse=True, return_counts=True)
        if exact or not self.tolerance:
            unlisted = zip(found.tolist(), numbers.tolist(), strict=True)
            return Indexed(mask, {self._format(value): number for value, number in unlisted})
        nearest, within = self._nearest(found)
        mask[~known] = np.where(within, nearest, np.uint8(IGNORE))[where]
        return Indexed(mask, {}, int(numbers[within].sum()), int(numbers[~within].sum()))

    def _nearest(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For values (n,): (indices uint8 of the nearest listed values, whether those are within the tolerance)."""
        points = interpolation.channels(found) if self.color else found[:, None].astype(np.int64)
        best, nearest = np.full(len(found), np.inf), np.full(len(found), IGNORE, np.uint8)
        for value, index in zip(self._values, self._indices, strict=True):
            if value == mask_files.NO_DATA:
                continue
            point = interpolation.channels(value) if self.color else np.int64(value)
            distance = np.linalg.norm(points - point, axis=1)
            nearest[distance < best] = index
            best = np.minimum(best, distance)
        return nearest, best <= self.tolerance

    def off_by_one_candidates(self, unlisted: Mapping[str, int]) -> Mapping[str, int]:
        """The unlisted values for the off-by-one check, which applies only if the class values count from 0."""
        plain = np.array_equal(self._values[self._indices != IGNORE], np.arange((self._indices != IGNORE).sum()))
        return unlisted if plain and not self.color else {}

    def _format(self, value: int) -> str:
        return f"[{value >> 16}, {value >> 8 & 255}, {value & 255}]" if self.color else str(value)
