"""One permanent EMA teacher (Tarvainen & Valpola 2017) with Dual Teacher's augmentations and losses."""

from __future__ import annotations

from dualteacher.core import ema
from dualteacher.methods.base import Clock
from dualteacher.methods.teaching import Teaching


class MeanTeacher(Teaching):
    """The teacher follows the student at every step; its decay ramps up once, over the whole run."""

    number = 1

    def active(self, clock: Clock) -> int:
        return 0

    def decay(self, clock: Clock) -> float:
        return ema.decay(clock.step, self.own.ema_decay)


METHOD = MeanTeacher
