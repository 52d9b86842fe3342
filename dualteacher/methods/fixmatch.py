"""FixMatch for segmentation (Sohn et al., NeurIPS 2020): one strong view; the student or its moving average labels."""

from __future__ import annotations

from dualteacher.methods.matching import Matching
from dualteacher.settings import FixMatch as Options


class FixMatch(Matching):
    """One strong view, in one student pass."""

    options: Options
    views = 1

    @property
    def ema_decay(self) -> float | None:
        return self.options.ema_decay if self.options.teacher == "ema" else None


METHOD = FixMatch
