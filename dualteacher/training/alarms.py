"""Alarms: signs of collapsed training in a run's history. An alarm never stops a run or changes its results.

Each rule checks one value per epoch and must hold for several consecutive epochs that measured it. The rules:

- not_a_number: a mean loss is NaN or infinite. One epoch is enough.
- skipped: at least SKIPPED of an epoch's batches were skipped as non-finite (optimizer.bad_batch: skip).
- coverage_low: less than COVERAGE_LOW of the pixels pass the confidence threshold, so the unlabelled images
  contribute nothing. Normal after a short warm-up, so the first GRACE of the steps do not count.
- coverage_high: nearly every pixel passes, and the labels were often wrong when last checked (accuracy on the probe
  below TRUSTED) or cannot be checked. Full coverage with correct labels raises nothing.
- one_class: SWALLOWED or more of the pixels of all other classes are predicted as one class. That class's own
  share does not matter, so a data set that is mostly background raises nothing.
- teacher_is_student: the relative distance between the active teacher's parameters and the student's is below SAME.
  A temporary teacher starts its turn as a copy, so one such epoch is normal, and epochs of one step do not count. At
  the end of the schedule neither changes, so epochs below MOVING of the peak learning rate do not count. In a healthy
  run the distance is orders of magnitude larger (default run: 1e-3 to 1e-2).
- unlearning: mIoU is FELL below the best validation so far while pixel accuracy is no lower: the network gives up
  rare classes for common ones. The text lists the classes whose IoU fell by LOST or more, by index;
  `with_names` names them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from dualteacher.training.history import CLASS_IOU, Row

SKIPPED = 0.05
COVERAGE_LOW, GRACE = 0.005, 0.2
COVERAGE_HIGH, TRUSTED, UNCHECKED = 0.99, 0.9, 0.999
SWALLOWED = 0.97
SAME, MOVING = 1e-6, 0.1
FELL, LOST, NAMED = 0.01, 0.02, 5  # NAMED: classes listed in the text


@dataclass(frozen=True)
class Alarm:
    """What is wrong, and the epoch and step at which the rule had held for long enough."""

    name: str
    epoch: int
    step: int
    text: str


@dataclass(frozen=True)
class Context:
    """What the rules need besides the history."""

    steps: int  # of the whole run
    thresholded: bool  # the method has a confidence threshold that pixels can fail
    probed: bool = False  # validations check the pseudo-labels on probe images


@dataclass(frozen=True)
class Epoch:
    """An epoch's row of the history and its context."""

    row: Row
    context: Context
    steps: int  # of this epoch
    rate: float  # learning rate, relative to the peak so far
    best: Row | None = None  # the earlier epoch with the highest validation mIoU
    right: float | None = None  # accuracy on the probe when last checked; None if never, or for lack of masks
    awaits_probe: bool = False  # the first check is still to come

    def value(self, name: str) -> float | None:
        """A value of the row; None if it was not measured."""
        value = self.row.get(name)
        return None if value is None or math.isnan(value) else float(value)


@dataclass(frozen=True)
class Rule:
    """`holds` returns what is wrong with an epoch: "" if nothing, None if its value was not measured."""

    name: str
    epochs: int  # consecutive epochs that raise the alarm
    holds: Callable[[Epoch], str | None]


def check(history: Sequence[Row], context: Context) -> list[Alarm]:
    """All alarms that `history` raises, at most one per rule, by step."""
    found: list[Alarm] = []
    epochs = list(_epochs(history, context))
    for rule in RULES:
        seen = 0
        for epoch in epochs:
            problem = rule.holds(epoch)
            if problem is not None:
                seen = seen + 1 if problem else 0
            if problem and seen == rule.epochs:
                found.append(Alarm(rule.name, epoch.row["epoch"], epoch.row["step"], problem))
                break
    return sorted(found, key=lambda alarm: alarm.step)


def with_names(text: str, names: Sequence[str]) -> str:
    """An alarm's text with the classes' names in place of their indices."""
    return re.sub(r"\bclass (\d+)(?= \()", lambda found: names[int(found[1])], text)


def _epochs(history: Sequence[Row], context: Context) -> Iterator[Epoch]:
    before, peak, best, right, awaits_probe = 0, 0.0, None, None, context.probed
    for row in history:
        peak = max(peak, row["learning_rate"])
        right = right if math.isnan(row.get("probe_accuracy", math.nan)) else row["probe_accuracy"]
        awaits_probe = awaits_probe and math.isnan(row.get("probe_coverage", math.nan))
        rate = row["learning_rate"] / peak if peak else 0.0
        yield Epoch(row, context, row["step"] - before, rate, best, right, awaits_probe)
        before = row["step"]
        if row.get("val_miou", math.nan) > (best["val_miou"] if best else -math.inf):
            best = row


def _not_a_number(epoch: Epoch) -> str:
    """NaN counts in `loss` only: loss terms that a method lacks are NaN too."""
    row = epoch.row
    bad = [name for name in _losses(row) if math.isinf(row[name]) or (name == "loss" and math.isnan(row[name]))]
    return f"{', '.join(bad)}: NaN or infinite" if bad else ""


def _losses(row: Row) -> Iterable[str]:
    return (name for name in row if name.startswith("loss"))


def _skipped(epoch: Epoch) -> str | None:
    share = (epoch.value("skipped") or 0.0) / max(epoch.steps, 1)
    return (
        f"{share:.0%} of the epoch's batches were skipped: loss or gradient NaN or infinite" if share >= SKIPPED else ""
    )


def _coverage_low(epoch: Epoch) -> str | None:
    kept = epoch.value("kept")
    if kept is None or not epoch.context.thresholded or epoch.row["step"] <= GRACE * epoch.context.steps:
        return None
    text = f"only {kept:.2%} of the pixels pass the threshold: the unlabelled images contribute almost nothing"
    return text if kept < COVERAGE_LOW else ""


def _coverage_high(epoch: Epoch) -> str | None:
    kept, right = epoch.value("kept"), epoch.right
    if kept is None or not epoch.context.thresholded or epoch.awaits_probe:
        return None
    if right is None:
        return f"{kept:.2%} of the pixels pass the threshold; no masks to check them" if kept >= UNCHECKED else ""
    wrong = kept >= COVERAGE_HIGH and right < TRUSTED
    return f"{kept:.2%} of the pixels pass the threshold, but only {right:.1%} of them are correct" if wrong else ""


def _one_class(epoch: Epoch) -> str | None:
    share = epoch.value("val_swallowed")
    if share is None:
        return None
    return (
        f"{share:.1%} of the other classes' validation pixels are predicted as one class" if share >= SWALLOWED else ""
    )


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
    pairs = enumerate(zip(best.get(CLASS_IOU, ()), epoch.row.get(CLASS_IOU, ()), strict=False))
    lost = sorted((now - then, index, then, now) for index, (then, now) in pairs if then - now >= LOST)
    named = ", ".join(f"class {index} ({then:.1%} to {now:.1%})" for _, index, then, now in lost[:NAMED])
    return (
        f"since epoch {best['epoch']} mIoU fell from {best['val_miou']:.1%} to {miou:.1%} while pixel accuracy rose"
        f" from {best['val_pixel_accuracy']:.1%} to {right:.1%}; classes that lost IoU: {named or 'none by much'}"
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
