"""How the mask files of one's own folder spell the classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dualteacher import settings
from dualteacher.core.labels import IGNORE
from dualteacher.data import check
from dualteacher.data.formats import images


class MaskTable:
    """Values or colours to class indices, as `classes` and `ignore` of the settings list them."""

    def __init__(self, wanted: settings.Folder) -> None:
        spelt = [entry.value for entry in wanted.classes]
        self.color = not isinstance(spelt[0], int)
        values = [v if isinstance(v, int) else images.pack_color(v) for v in [*spelt, *wanted.ignore]]
        indices = [*range(len(spelt)), *[IGNORE] * len(wanted.ignore)]
        order = np.argsort(values)
        self._values = np.array(values, np.int32)[order]
        self._indices = np.array(indices, np.uint8)[order]
        shown = [self._spell(value) for value in sorted(values)]
        self.allowed = ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")

    def index(self, values: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
        """(class indices uint8 (H, W), pixels of each value that the table does not know; those are ignored)."""
        place = np.searchsorted(self._values, values).clip(max=len(self._values) - 1)
        known = self._values[place] == values
        mask = np.where(known, self._indices[place], np.uint8(IGNORE))
        unlisted = {} if known.all() else check.counted(values[~known])
        return mask, {self._spell(value): number for value, number in unlisted.items()}

    def as_index(self, unlisted: Mapping[str, int]) -> Mapping[str, int]:
        """What the off-by-one check may judge: only a table that counts from 0 can be off by one."""
        plain = np.array_equal(self._values[self._indices != IGNORE], np.arange((self._indices != IGNORE).sum()))
        return unlisted if plain and not self.color else {}

    def _spell(self, value: int) -> str:
        return f"[{value >> 16}, {value >> 8 & 255}, {value & 255}]" if self.color else str(value)
