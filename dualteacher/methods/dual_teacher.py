"""Dual Teacher (Na et al., NeurIPS 2023): two temporary teachers that take turns by epoch.

Only the active teacher labels and only it follows the student; the other keeps what it learnt an epoch
ago, so the student is never taught by a copy of itself of a moment before (section 3.1). Each teacher
comes with its own mix (section 3.2), since both the teacher and the mix alternate by epoch.
"""

from __future__ import annotations

from dualteacher import ema
from dualteacher.methods.base import Clock
from dualteacher.methods.teaching import Teaching


class DualTeacher(Teaching):
    """Teacher `epoch mod 2` is active; its decay ramps from 0 again at each epoch's start."""

    number = 2

    def active(self, clock: Clock) -> int:
        return clock.epoch % self.number

    def decay(self, clock: Clock) -> float:
        return ema.decay(clock.step_in_epoch, self.own.ema_decay)


METHOD = DualTeacher
