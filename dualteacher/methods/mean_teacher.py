"""Mean Teacher: one permanent EMA teacher (Tarvainen & Valpola 2017), with Dual Teacher's augmentations and losses."""

from __future__ import annotations

from dualteacher.core import ema
from dualteacher.methods.base import Clock
from dualteacher.methods.teaching import Teaching


class MeanTeacher(Teaching):
    """Updates the teacher at every step. Its decay ramps up once, at the start of the run."""

    def active(self, clock: Clock) -> int:
        return 0

    def decay(self, clock: Clock) -> float:
        return ema.decay(clock.step, self.options.ema_decay)


METHOD = MeanTeacher
