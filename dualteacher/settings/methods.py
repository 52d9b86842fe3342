"""Options of the methods: one section per kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dualteacher.settings.base import AtLeastOne, Count, NotNegative, Section, Share, by_tag


class Method(Section):
    """Options of all methods."""

    kind: str

    @property
    def has_teachers(self) -> bool:
        return False


class Supervised(Method):
    """Training on labelled images only; no options."""

    kind: Literal["supervised"]


class Teacher(Method):
    """Options of the methods with EMA teachers."""

    threshold: Share  # minimum confidence of a pseudo-label
    ema_decay: Share  # maximum decay of the teachers' moving average
    unlabelled_weight: NotNegative  # weight of the loss on mixed images
    consistency_weight: NotNegative  # weight of the loss on the strong view
    ramp_steps: Count  # steps over which both weights rise from 0; 0: constant, as published
    mixes: Annotated[list[Literal["cutmix", "classmix", "copy_paste"]], Field(min_length=1)]  # used in rotation
    normalisation: Literal["running", "batch"]  # batch-norm statistics of the teachers
    pixels: Literal["share", "confident"]  # loss on mixed images: all, weighted by confident share; or confident only
    adaptive_floor: Share | None  # minimum of adaptive per-class thresholds (maximum: `threshold`); null: not adaptive
    alignment: Share  # of pseudo-label class shares with those of the labels; 0: off, 1: full

    @property
    def has_teachers(self) -> bool:
        return True


class MeanTeacher(Teacher):
    """One permanent teacher; the mix changes every epoch."""

    kind: Literal["mean_teacher"]


class DualTeacher(Teacher):
    """Temporary teachers that take turns, each with its own mix; in the paper, two that switch every epoch."""

    kind: Literal["dual_teacher"]
    teachers: AtLeastOne  # number of teachers
    period: AtLeastOne  # length of a teacher's turn
    period_unit: Literal["epoch", "step"]  # unit of `period`
    period_at_least: Count  # minimum steps per turn, since epochs are short with few labels
    temporary: bool  # each turn starts from a copy of the student


class Matching(Method):
    """Options of FixMatch and its successors."""

    threshold: Share  # minimum confidence of a pseudo-label
    unlabelled_weight: NotNegative  # weight of the loss on unlabelled images
    ramp_steps: Count  # steps over which the weight rises from 0; 0: constant, as published
    adaptive_floor: Share | None  # minimum of adaptive per-class thresholds (maximum: `threshold`); null: not adaptive
    alignment: Share  # of pseudo-label class shares with those of the labels; 0: off, 1: full


class FixMatch(Matching):
    """Predictions on weak views are the pseudo-labels for strong views."""

    kind: Literal["fixmatch"]
    teacher: Literal["student", "ema"]  # labels the weak views: the student itself, or its moving average
    ema_decay: Share  # ema: maximum decay of the moving average

    @property
    def has_teachers(self) -> bool:
        return self.teacher == "ema"


class UniMatch(Matching):
    """FixMatch with two strong views, plus the weak view with feature dropout."""

    kind: Literal["unimatch"]
    feature_dropout: Annotated[float, Field(ge=0.0, lt=1.0)]  # share of channels to drop


class UniMatchV2(Matching):
    """A moving average of the student labels for two strong views with complementary channel dropout."""

    kind: Literal["unimatch_v2"]
    ema_decay: Share  # maximum decay of the teacher's moving average
    dropped: Share  # of images, those whose feature channels are dropped, half in one view and half in the other

    @property
    def has_teachers(self) -> bool:
        return True


class CPS(Method):
    """Cross pseudo-supervision: two networks train on each other's predictions."""

    kind: Literal["cps"]
    unlabelled_weight: NotNegative  # weight of the loss on unlabelled images
    partner_seed: Count  # seed of the second network's head
    ramp_steps: Count  # steps over which the weight rises from 0; 0: constant, as published


AnyMethod = Annotated[
    Supervised
    | MeanTeacher
    | DualTeacher
    | FixMatch
    | UniMatch
    | UniMatchV2
    | CPS,
    Field(discriminator="kind"),
]  # fmt: skip
KINDS = by_tag(AnyMethod, "kind")
