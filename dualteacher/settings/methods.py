"""Methods and their options: one section for each kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dualteacher.settings.base import AtLeastOne, Count, NotNegative, Section, Share, by_tag


class Supervised(Section):
    """Continues on the labelled images alone; no options."""

    kind: Literal["supervised"]


class Teacher(Section):
    """The options of all methods with teachers."""

    kind: str
    threshold: Share  # confidence from which a pseudo-label counts
    ema_decay: Share  # upper limit
    unlabelled_weight: NotNegative  # of the mixed images' loss
    consistency_weight: NotNegative  # of the strong view's loss
    mixes: Annotated[list[Literal["cutmix", "classmix"]], Field(min_length=1)]  # used in turn
    normalisation: Literal["running", "batch"]  # batch-norm statistics of the teachers
    pixels: Literal["share", "confident"]  # mixed images: weighed by their confident share, or confident pixels alone
    adaptive_floor: Share | None  # each class's threshold adapts, from here up to `threshold`; null: it is fixed
    alignment: Share  # of the pseudo-labels with the labelled classes' shares; 0: none, 1: in full


class MeanTeacher(Teacher):
    """One permanent teacher; the mix changes with the epoch."""

    kind: Literal["mean_teacher"]


class DualTeacher(Teacher):
    """Temporary teachers that take turns, each with a mix; the paper has two that switch after each epoch."""

    kind: Literal["dual_teacher"]
    teachers: AtLeastOne  # number of teachers
    period: AtLeastOne  # length of a turn
    period_unit: Literal["epoch", "step"]  # unit of `period`
    period_at_least: Count  # steps that a turn lasts at least: with few labels an epoch is too short
    temporary: bool  # each turn starts from a copy of the student


class Matching(Section):
    """The options of FixMatch and its successors."""

    kind: str
    threshold: Share  # confidence from which a pseudo-label counts
    unlabelled_weight: NotNegative  # of the loss on unlabelled images
    adaptive_floor: Share | None  # each class's threshold adapts, from here up to `threshold`; null: it is fixed
    alignment: Share  # of the pseudo-labels with the labelled classes' shares; 0: none, 1: in full


class FixMatch(Matching):
    """The student labels weak views for its own strong views."""

    kind: Literal["fixmatch"]


class UniMatch(Matching):
    """Two strong views, and the weak view with dropped features."""

    kind: Literal["unimatch"]
    feature_dropout: Annotated[float, Field(ge=0.0, lt=1.0)]  # fraction of the channels


class CPS(Section):
    """Two networks train each other."""

    kind: Literal["cps"]
    unlabelled_weight: NotNegative  # of the loss on unlabelled images
    partner_seed: Count  # for the second network's head
    ramp_steps: Count  # over which the weight rises from 0; 0: constant, as published


AnyMethod = Annotated[
    Supervised
    | MeanTeacher
    | DualTeacher
    | FixMatch
    | UniMatch
    | CPS,
    Field(discriminator="kind"),
]  # fmt: skip
KINDS = by_tag(AnyMethod, "kind")
