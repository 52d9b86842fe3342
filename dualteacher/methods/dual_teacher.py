"""Dual Teacher (Na et al., NeurIPS 2023): temporary teachers that take turns. Ablations differ only in their options.

A turn lasts `period` epochs or steps, and at least `period_at_least` steps; the paper has two teachers and turns of one
epoch. Only the active teacher labels and is updated. The others keep the weights of their last turn, so the labels come
from a teacher that differs from the student's recent past (section 3.1). The mix changes with the turn (section 3.2).
"""

from __future__ import annotations

from dualteacher.core import ema
from dualteacher.methods.base import Clock, Pixels
from dualteacher.methods.teaching import Teaching
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import DualTeacher as Options
from dualteacher.settings import Settings


class DualTeacher(Teaching):
    """Teacher `turn mod teachers` is active. With temporary teachers the decay ramps up from 0 in every turn."""

    options: Options

    def __init__(self, options: Options, settings: Settings, student: Segmenter, pixels: Pixels | None = None) -> None:
        self.number = options.teachers
        super().__init__(options, settings, student, pixels)

    def turn(self, clock: Clock) -> tuple[int, int]:
        """(turn, step within the turn), both from 0."""
        unit = 1 if self.options.period_unit == "step" else clock.steps_per_epoch
        return divmod(clock.step, max(self.options.period * unit, self.options.period_at_least))

    def active(self, clock: Clock) -> int:
        return self.turn(clock)[0] % self.number

    def mix(self, clock: Clock) -> str:
        return self.options.mixes[self.turn(clock)[0] % len(self.options.mixes)]

    def decay(self, clock: Clock) -> float:
        step = self.turn(clock)[1] if self.options.temporary else clock.step
        return ema.decay(step, self.options.ema_decay)


METHOD = DualTeacher
