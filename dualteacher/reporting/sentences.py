"""Sentences on the results, generated from the numbers so that they cannot disagree with the table.

A difference between two methods counts as clear if its bootstrap interval over seeds excludes zero (statistics.py);
with two seeds, which have no interval, if it exceeds its standard deviation (paired, ddof = 1). This is a rule of
thumb, not a significance test, and the sentences claim no significance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from dualteacher.reporting import statistics
from dualteacher.reporting.results import Run, spoken
from dualteacher.reporting.tables import between, percent, points, span, spread

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Reading:
    """The main finding in one or two sentences, and remarks that qualify it."""

    lead: str
    remarks: list[str]


@dataclass(frozen=True)
class Comparison:
    """mIoU of one method minus another's, seed by seed."""

    method: str
    other: str
    differences: np.ndarray  # (seeds,)

    @cached_property
    def paired(self) -> statistics.Paired:
        return statistics.paired(self.differences)

    @property
    def mean(self) -> float:
        return self.paired.mean

    @property
    def clear(self) -> bool:
        return self.paired.clear

    @property
    def margin(self) -> str:
        """ "± 1.2", with the interval if there is one: "± 1.2 [−0.1 … +2.4]"; "" with one seed."""
        if len(self.differences) < 2:
            return ""
        ends = f" [{span(self.paired.low, self.paired.high, self.paired.n)}]" if self.paired.known else ""
        return f"± {spread(self.paired.std)}{ends}"


def compare(seeds: pd.DataFrame, method: str, other: str) -> Comparison:
    """Compare two methods; `seeds`: the per-seed rows of one dataset and partition."""
    table = seeds.pivot(index="seed", columns="method", values="miou")
    return Comparison(method, other, (table[method] - table[other]).to_numpy())


def read(seeds: pd.DataFrame, baseline: str, bounds: pd.DataFrame | None = None) -> Reading:
    """Interpret the per-seed rows of one dataset and partition (tables.per_seed); `bounds`: rows of its bounds."""
    means = seeds.groupby("method", sort=False)["miou"].mean().sort_values(ascending=False, kind="stable")
    order = [str(name) for name in means.index]
    number = seeds["seed"].nunique()
    if len(order) == 1:
        only = f"Only {spoken(order[0])} was run: {percent(means.iloc[0])} % mIoU, with nothing to compare it to."
        return Reading(only, _alarms(seeds) + _bounds(bounds, means) + _cautions(seeds, order, number))
    first = compare(seeds, order[0], order[1])
    lead = (
        f"{spoken(first.method)} is ahead with {percent(means.iloc[0])} % mIoU,"
        f" {_amount(first.mean)} above {spoken(first.other)} ({percent(means.iloc[1])} %)."
        f" {_verdict(first)}"
    )
    remarks = []
    if baseline in order:
        told = {first.method, first.other}
        remarks = [
            _against(compare(seeds, method, baseline))
            for method in order
            if method != baseline and (told != {method, baseline} or means[method] <= means[baseline])
        ]
    else:
        remarks.append(f"The baseline ({spoken(baseline)}) is not in the grid, so differences to it are not shown.")
    remarks = [*_alarms(seeds), *remarks, *_bounds(bounds, means)]
    return Reading(lead, remarks + _compute(seeds, order, baseline) + _cautions(seeds, order, number))


def _verdict(comparison: Comparison) -> str:
    """How far to trust the difference."""
    number = len(comparison.differences)
    if number == 1:
        return "With one seed there is no telling how much of this is chance."
    over = f"over {_count(number, 'seed')} ({comparison.margin})"
    if comparison.paired.known:
        if comparison.clear:
            return f"The difference's bootstrap interval {over} excludes zero."
        return f"The difference's bootstrap interval {over} includes zero: these runs cannot tell the two apart."
    if comparison.clear:
        return f"The difference exceeds its standard deviation {over}."
    return f"The difference is within its standard deviation {over}: these runs cannot tell the two apart."


def _against(comparison: Comparison) -> str:
    """One method against the baseline, stating explicitly if there is no gain."""
    method, other = spoken(comparison.method), spoken(comparison.other)
    by = f"{points(comparison.mean)} points {comparison.margin}".rstrip()
    what = "interval" if comparison.paired.known else "spread"
    if comparison.mean <= 0:
        sure = "" if comparison.clear or len(comparison.differences) == 1 else f", within the {what} over seeds"
        return f"{method} does not beat {other} here ({by}{sure})."
    if len(comparison.differences) == 1:
        return f"{method} scores above {other} ({by}), but on one seed only."
    if comparison.clear:
        return f"{method} beats {other} by more than the {what} over seeds ({by})."
    return f"{method} scores above {other} ({by}), but within the {what} over seeds: no gain is shown."


def _alarms(seeds: pd.DataFrame) -> list[str]:
    """Runs whose training raised alarms; the first remark, since it makes their scores doubtful."""
    raised = seeds[seeds["alarms"] != ""]
    if not len(raised):
        return []
    each = [f"{spoken(row.method)} seed {row.seed} ({', '.join(row.alarms.split())})" for row in raised.itertuples()]
    return [f"Alarm: training showed signs of collapse in {'; '.join(each)}. See alarms.csv for details."]


def _bounds(bounds: pd.DataFrame | None, means: pd.Series) -> list[str]:
    """How far the best method is from each bound, such as training on all labels."""
    told = []
    for (partition, method), rows in bounds.groupby(["partition", "method"], sort=False) if bounds is not None else ():
        bound, labelled = rows["miou"].mean(), between(rows["labelled"].min(), rows["labelled"].max())
        gap = bound - means.iloc[0]
        side = "above" if gap > 0 else "below"
        told.append(
            f"Bound: {spoken(method)} on partition {partition} ({labelled} labelled images) reaches {percent(bound)} %,"
            f" {_amount(gap)} {side} {spoken(str(means.index[0]))}."
        )
        told += [text.replace("Alarm:", f"Alarm on partition {partition}:") for text in _alarms(rows)]
    return told


def _compute(seeds: pd.DataFrame, order: list[str], baseline: str) -> list[str]:
    """Report unequal compute, if any."""
    if baseline not in order:
        return []
    used = seeds.groupby("method")[["student_images", "teacher_images"]].mean()
    reference = used.loc[baseline, "student_images"]
    told = []
    for method in order:
        student, teacher = used.loc[method, "student_images"], used.loc[method, "teacher_images"]
        if method == baseline or not reference or (student <= 1.05 * reference and not teacher > 0):
            continue
        text = f"{spoken(method)} trained on {student / reference:.1f} × the images"
        told.append(text + (f" and ran its teacher on {teacher / reference:.1f} ×" if teacher > 0 else ""))
    if not told:
        return []
    return [f"Compute is not equal: relative to {spoken(baseline)}, {'; '.join(told)}."]


def _cautions(seeds: pd.DataFrame, order: list[str], number: int) -> list[str]:
    found = []
    means = seeds.groupby("method", sort=False)[["miou", "best_miou"]].mean()
    optimism = (means["best_miou"] - means["miou"]).dropna()
    picked = (seeds["selected"] == "held_out").any()
    if picked:
        found.append(
            "Each run's epoch was picked on labelled images held out from training, never on the validation images."
        )
    if len(optimism) and optimism.max() >= 0.0005:
        method = str(optimism.idxmax())
        what = "the epoch chosen on held-out images" if picked else "the last epoch"
        text = (
            "Picking each run's best epoch on the validation images would add up to"
            f" {_amount(optimism.max())} ({spoken(method)}); the reported score is that of {what}."
        )
        best = str(means["best_miou"].idxmax())
        if len(order) > 1 and best != order[0]:
            text += f" By best epoch, {spoken(best)} would be ahead."
        found.append(text)
    if number == 2:
        found.append("Two seeds: a standard deviation of two values is only a rough estimate.")
    if number == statistics.FEWEST and len(order) > 1:
        found.append(
            "Three seeds: the bootstrap interval is just the range of the three differences, and misses the true"
            " difference in about a quarter of cases."
        )
    return found


def teachers(method: str, runs: Sequence[Run]) -> str:
    """How far a method's teachers are from the student, averaged over epochs and seeds; "" without a teacher."""
    history = pd.concat([run.history for run in runs])
    if history["distance_active"].isna().all():
        return ""
    mean = {name: float(history[name].mean()) for name in history if name.startswith(("distance_", "disagreement_"))}
    text = (
        f"{spoken(method)}: the active teacher's parameters are {percent(mean['distance_active'])} % away from the"
        f" student's, and it labels {percent(mean['disagreement_active'])} % of the pixels differently"
    )
    if not math.isnan(mean["distance_waiting"]):
        text += (
            f"; for the waiting one, {percent(mean['distance_waiting'])} %"
            f" and {percent(mean['disagreement_waiting'])} %"
        )
    return text + "."


def pseudo_labels(method: str, runs: Sequence[Run]) -> str:
    """Share of pseudo-labels that pass the threshold at the last check, and their accuracy; "" without any."""
    last = [run.history.dropna(subset="probe_coverage").tail(1) for run in runs]
    table = pd.concat(last)
    if table.empty:
        return ""
    coverage, kept, every = (table[name].mean() for name in ("probe_coverage", "probe_accuracy", "probe_accuracy_all"))
    if math.isnan(kept):  # nothing kept, or no hidden masks to compare with
        return f"{spoken(method)}: at the last check, {percent(coverage)} % of the probe pixels are kept."
    return (
        f"{spoken(method)}: at the last check, {percent(coverage)} % of the probe pixels are kept;"
        f" {percent(kept)} % of those are correct, compared with {percent(every)} % of all pixels."
    )


def _count(number: int, noun: str) -> str:
    word = NUMBERS[number] if number < len(NUMBERS) else str(number)
    return f"{word} {noun}" + ("" if number == 1 else "s")


def _amount(difference: float) -> str:
    """0.012 → "1.2 points"; "less than 0.1 point" if it would round to zero."""
    size = 100 * abs(difference)
    text = "less than 0.1" if size < 0.05 else f"{size:.1f}"
    return f"{text} point{'' if text in ('1.0', 'less than 0.1') else 's'}"
