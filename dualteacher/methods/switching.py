"""Temporary teachers that take turns: Dual Teacher and its ablations differ in their settings only.

A turn lasts `period` epochs or steps. Only the active teacher labels and only it follows the student; the
others keep what they learnt in their last turn, so the student is never taught by a copy of itself of a
moment before (Na et al., NeurIPS 2023, section 3.1). Each turn comes with its own mix (section 3.2).
"""

from __future__ import annotations

from dualteacher.core import ema
from dualteacher.methods.base import Clock
from dualteacher.methods.teaching import Teaching
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import DualTeacher, Settings


class Switching(Teaching):
    """Teacher `turn mod teachers` is active; while it is temporary its decay ramps from 0 in every turn."""

    own: DualTeacher

    def __init__(self, own: DualTeacher, settings: Settings, student: Segmenter) -> None:
        self.number = own.teachers
        super().__init__(own, settings, student)

    def turn(self, clock: Clock) -> tuple[int, int]:
        """(number of the turn, step within it), both from 0."""
        if self.own.period_unit == "step":
            return divmod(clock.step, self.own.period)
        turn, epoch = divmod(clock.epoch, self.own.period)
        epoch_steps = (clock.step - clock.step_in_epoch) // max(1, clock.epoch)
        return turn, epoch * epoch_steps + clock.step_in_epoch

    def active(self, clock: Clock) -> int:
        return self.turn(clock)[0] % self.number

    def mix(self, clock: Clock) -> str:
        return self.own.mixes[self.turn(clock)[0] % len(self.own.mixes)]

    def decay(self, clock: Clock) -> float:
        step = self.turn(clock)[1] if self.own.temporary else clock.step
        return ema.decay(step, self.own.ema_decay)
