"""Compare the palettes of mask files: if an index has different colours in two files, it does not identify a class.

Image editors and optimisers rebuild palettes: they keep the colours and renumber the indices.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dualteacher.core.labels import IGNORE

Color = tuple[int, int, int]


def used(values: np.ndarray, palette: tuple[Color, ...]) -> dict[int, Color]:
    """The colours of the indices that occur in a mask (H, W)."""
    found = np.flatnonzero(np.bincount(values.ravel())).tolist()
    return {index: palette[index] for index in found if index < len(palette)}


class Palettes:
    """Collects the colours of used indices over all masks with a palette.

    Grey ramps (index i is [i, i, i]) are ignored, unless other palettes contain the same greys.
    """

    def __init__(self) -> None:
        self.colors: dict[int, dict[Color, str]] = {}  # index → colour → the first mask that has it
        self._ramps: dict[frozenset[int], str] = {}  # indices of a mask with a grey ramp → the first such mask

    def add(self, where: str, colors: Mapping[int, Color]) -> None:
        if all(color == (index, index, index) for index, color in colors.items()):
            self._ramps.setdefault(frozenset(colors), where)
            return
        for index, color in colors.items():
            if index == IGNORE:  # by convention of no class, in whatever colour
                continue
            self.colors.setdefault(index, {}).setdefault(color, where)

    def conflict(self) -> str | None:
        """Describe an index with two colours; None if there is none."""
        shown = {color for found in self.colors.values() for color in found}
        everything = {index: dict(found) for index, found in self.colors.items()}
        for indices, where in self._ramps.items():
            if all((index, index, index) in shown for index in indices):
                for index in indices:
                    everything.setdefault(index, {}).setdefault((index, index, index), where)
        for index, found in sorted(everything.items()):
            if len(found) > 1:
                (color, where), (other, elsewhere) = list(found.items())[:2]
                return f"index {index} is {list(color)} in {where}, but {list(other)} in {elsewhere}"
        return None
