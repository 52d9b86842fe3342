"""Map the values or colours of the user's mask files to class indices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dualteacher import settings
from dualteacher.core.labels import IGNORE
from dualteacher.data import inspection
from dualteacher.data.formats import images


class LabelMap:
    """Converts mask values or colours to class indices, following `classes` and `ignore` in the settings."""

    def __init__(self, options: settings.Folder) -> None:
        listed = [entry.value for entry in options.classes]
        self.color = not isinstance(listed[0], int)
        values = [v if isinstance(v, int) else images.pack_color(v) for v in [*listed, *options.ignore]]
        indices = [*range(len(listed)), *[IGNORE] * len(options.ignore)]
        shown = [self._format(value) for value in sorted(values)]
        if images.NO_DATA not in values:
            values, indices = [*values, images.NO_DATA], [*indices, IGNORE]
        order = np.argsort(values)
        self._values = np.array(values, np.int32)[order]
        self._indices = np.array(indices, np.uint8)[order]
        self.allowed = ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")

    def index(self, values: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
        """(class indices uint8 (H, W), number of pixels of each unlisted value; those pixels become IGNORE)."""
        place = np.searchsorted(self._values, values).clip(max=len(self._values) - 1)
        known = self._values[place] == values
        mask = np.where(known, self._indices[place], np.uint8(IGNORE))
        unlisted = {} if known.all() else inspection.counted(values[~known])
        return mask, {self._format(value): number for value, number in unlisted.items()}

    def off_by_one_candidates(self, unlisted: Mapping[str, int]) -> Mapping[str, int]:
        """The unlisted values for the off-by-one check, which applies only if the class values count from 0."""
        plain = np.array_equal(self._values[self._indices != IGNORE], np.arange((self._indices != IGNORE).sum()))
        return unlisted if plain and not self.color else {}

    def _format(self, value: int) -> str:
        return f"[{value >> 16}, {value >> 8 & 255}, {value & 255}]" if self.color else str(value)
