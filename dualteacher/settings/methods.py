"""Each method's own settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dualteacher.settings.base import AtLeastOne, Count, NotNegative, Section, Share


class Teacher(Section):
    """What the teacher-based methods share."""

    threshold: Share  # confidence from which a pseudo-label counts
    ema_decay: Share  # at most
    unlabelled_weight: NotNegative  # of the mixed images' loss
    consistency_weight: NotNegative  # of the strong view's loss
    mixes: Annotated[list[Literal["cutmix", "classmix"]], Field(min_length=1)]  # taken in turn by epoch
    normalisation: Literal["running", "batch"]  # statistics the teachers label with


class DualTeacher(Teacher):
    """Temporary teachers that take turns; the paper has two that switch after each epoch."""

    teachers: AtLeastOne  # that take turns
    period: AtLeastOne  # length of a turn
    period_unit: Literal["epoch", "step"]  # of `period`
    temporary: bool  # each turn starts from a copy of the student


class FixMatch(Section):
    """The student labels weak views for its own strong views."""

    threshold: Share  # confidence from which a pseudo-label counts
    unlabelled_weight: NotNegative  # of the loss on unlabelled images


class UniMatch(FixMatch):
    """Two strong views and dropped-out features."""

    feature_dropout: Annotated[float, Field(ge=0.0, lt=1.0)]  # share of the channels


class CPS(Section):
    """Two networks teach each other."""

    unlabelled_weight: NotNegative  # of the loss on unlabelled images
    partner_seed: Count  # draws the second network's head
    ramp_steps: Count  # over which the weight rises from 0 while the labelled images teach that head; 0: as published


class Supervised(Section):
    """Goes on with the labelled images alone; nothing to set."""


class Methods(Section):
    """Each method's own settings; a method's name is its file's name in dualteacher/methods/."""

    supervised: Supervised | None = None
    mean_teacher: Teacher | None = None
    fixmatch: FixMatch | None = None
    unimatch: UniMatch | None = None
    cps: CPS | None = None
    dual_teacher: DualTeacher | None = None
    # ablations of Dual Teacher: the same code, other settings
    dual_teacher_single: DualTeacher | None = None
    dual_teacher_triple: DualTeacher | None = None
    dual_teacher_steps: DualTeacher | None = None
    dual_teacher_cutmix: DualTeacher | None = None
    dual_teacher_plain: DualTeacher | None = None
    dual_teacher_permanent: DualTeacher | None = None
    dual_teacher_slow: DualTeacher | None = None
