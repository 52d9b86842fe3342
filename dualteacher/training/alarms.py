"""Alarms: signs in a run's history that training has collapsed, each with its rule and threshold.

A rule looks at one number of each epoch and must hold for several consecutive epochs in which that number was
measured, so a rough start raises nothing. The rules and their thresholds:

- not_a_number: a mean loss is NaN or infinite. One epoch is enough; it never happens in a healthy run.
- skipped: at least SKIPPED of an epoch's batches were left out as not finite (optimizer.bad_batch: skip).
- coverage_low: fewer than COVERAGE_LOW of the pixels pass the confidence threshold, so the unlabelled images
  contribute nothing. This is normal at first without a long warm-up: the first GRACE of the steps do not count.
- coverage_high: nearly every pixel passes, and the kept labels are often wrong (accuracy on the probe below TRUSTED)
  or cannot be checked. If they are right, full coverage is a success and raises nothing.
- one_class: of the pixels of all other classes, SWALLOWED or more are predicted as one class. That class's own
  share does not matter, so a data set that is mostly background raises nothing.
- teacher_is_student: the labelling teacher's parameters equal the student's to SAME, relative to their size. A
  temporary teacher starts its turn as a copy, so one such epoch is normal, and epochs of one step do not count. At
  the end of the schedule both stand still, so epochs below MOVING of the peak learning rate do not count. Otherwise an
  EMA is orders of magnitude farther away (default run: 1e-3 to 1e-2).
- unlearning: mIoU is FELL below that of the best validation so far while pixel accuracy is no lower: what is rare is
  unlearnt, what is common gains. The text names the classes that have lost LOST or more.

An alarm never stops a run or changes a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from dualteacher.training.history import CLASS_IOU, Row

SKIPPED = 0.05
COVERAGE_LOW, GRACE = 0.005, 0.2
COVERAGE_HIGH, TRUSTED, UNCHECKED = 0.99, 0.9, 0.999
SWALLOWED = 0.97
SAME, MOVING = 1e-6, 0.1
FELL, LOST, NAMED = 0.01, 0.02, 5  # NAMED: classes that the text lists


@dataclass(frozen=True)
class Alarm:
    """What was seen, and the epoch at which the rule had held for long enough."""

    name: str
    epoch: int
    step: int
    text: str


@dataclass(frozen=True)
class Context:
    """What the rules need to know about the run besides its history."""

    steps: int  # of the whole run
    thresholded: bool  # pseudo-labels pass a confidence threshold that can be missed
    classes: Sequence[str] = ()  # their names


@dataclass(frozen=True)
class Epoch:
    """An epoch's row and its place in the run."""

    row: Row
    context: Context
    steps: int  # of this epoch
    rate: float  # its learning rate, relative to the peak so far
    best: Row | None = None  # the earlier epoch with the highest validation mIoU

    def value(self, name: str) -> float | None:
        """A number of the row; None if it was not measured."""
        value = self.row.get(name)
        return None if value is None or math.isnan(value) else float(value)


@dataclass(frozen=True)
class Rule:
    """`holds` describes what is wrong with an epoch; "" if nothing is, None if it was not measured."""

    name: str
    epochs: int  # in a row
    holds: Callable[[Epoch], str | None]


def check(history: Sequence[Row], context: Context) -> list[Alarm]:
    """All alarms that `history` has raised, each once, by step."""
    found: list[Alarm] = []
    epochs = list(_epochs(history, context))
    for rule in RULES:
        seen = 0
        for epoch in epochs:
            said = rule.holds(epoch)
            if said is not None:
                seen = seen + 1 if said else 0
            if said and seen == rule.epochs:
                found.append(Alarm(rule.name, epoch.row["epoch"], epoch.row["step"], said))
                break
    return sorted(found, key=lambda alarm: alarm.step)


def _epochs(history: Sequence[Row], context: Context) -> Iterator[Epoch]:
    before, peak, best = 0, 0.0, None
    for row in history:
        peak = max(peak, row["learning_rate"])
        yield Epoch(row, context, row["step"] - before, row["learning_rate"] / peak if peak else 0.0, best)
        before = row["step"]
        if row.get("val_miou", math.nan) > (best["val_miou"] if best else -math.inf):
            best = row


def _not_a_number(epoch: Epoch) -> str:
    """A part that a method lacks is NaN too: only `loss`, which all have, and infinities count."""
    row = epoch.row
    bad = [name for name in _losses(row) if math.isinf(row[name]) or (name == "loss" and math.isnan(row[name]))]
    return f"{', '.join(bad)}: not a number" if bad else ""


def _losses(row: Row) -> Iterable[str]:
    return (name for name in row if name.startswith("loss"))


def _skipped(epoch: Epoch) -> str | None:
    share = (epoch.value("skipped") or 0.0) / max(epoch.steps, 1)
    return f"{share:.0%} of the epoch's batches were left out: not numbers" if share >= SKIPPED else ""


def _coverage_low(epoch: Epoch) -> str | None:
    kept = epoch.value("kept")
    if kept is None or not epoch.context.thresholded or epoch.row["step"] <= GRACE * epoch.context.steps:
        return None
    words = f"only {kept:.2%} of the pixels pass the threshold: the unlabelled images teach next to nothing"
    return words if kept < COVERAGE_LOW else ""


def _coverage_high(epoch: Epoch) -> str | None:
    kept, right = epoch.value("kept"), epoch.value("probe_accuracy")
    if kept is None or not epoch.context.thresholded:
        return None
    if right is None:
        return f"{kept:.2%} of the pixels pass the threshold; whether rightly is not known" if kept >= UNCHECKED else ""
    wrong = kept >= COVERAGE_HIGH and right < TRUSTED
    return f"{kept:.2%} of the pixels pass the threshold, but only {right:.1%} are labelled right" if wrong else ""


def _one_class(epoch: Epoch) -> str | None:
    share = epoch.value("val_swallowed")
    if share is None:
        return None
    return f"one class takes {share:.1%} of the validation pixels of all others" if share >= SWALLOWED else ""


def _teacher_is_student(epoch: Epoch) -> str | None:
    apart = epoch.value("distance_active")
    if apart is None or epoch.rate < MOVING or epoch.steps < 2:
        return None
    return f"the teacher equals the student (relative distance {apart:.1e})" if apart < SAME else ""


def _unlearning(epoch: Epoch) -> str | None:
    miou, right, best = epoch.value("val_miou"), epoch.value("val_pixel_accuracy"), epoch.best
    if miou is None or right is None:
        return None
    if best is None or best["val_miou"] - miou < FELL or right < best["val_pixel_accuracy"]:
        return ""
    pairs = zip(epoch.context.classes, best.get(CLASS_IOU, ()), epoch.row.get(CLASS_IOU, ()), strict=False)
    lost = sorted((now - then, name, then, now) for name, then, now in pairs if then - now >= LOST)
    named = ", ".join(f"{name} ({then:.1%} to {now:.1%})" for _, name, then, now in lost[:NAMED])
    return (
        f"since epoch {best['epoch']} mIoU fell from {best['val_miou']:.1%} to {miou:.1%} while pixel accuracy rose"
        f" from {best['val_pixel_accuracy']:.1%} to {right:.1%}; being unlearnt: {named or 'no class alone'}"
    )


RULES = (
    Rule("not_a_number", 1, _not_a_number),
    Rule("skipped", 1, _skipped),
    Rule("coverage_low", 3, _coverage_low),
    Rule("coverage_high", 3, _coverage_high),
    Rule("one_class", 2, _one_class),
    Rule("teacher_is_student", 3, _teacher_is_student),
    Rule("unlearning", 2, _unlearning),
)
