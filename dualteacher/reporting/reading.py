"""What the numbers say, in words: computed, so that the prose can never be kinder than the table.

A difference between two methods is called one only where it exceeds the spread of that difference over
seeds (paired, ddof = 1). This is a rule of thumb and no significance test; the words do not claim one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dualteacher.reporting.results import Run, spoken
from dualteacher.reporting.tables import percent, points, spread

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Reading:
    """The finding in one or two sentences, and what else a careful reader should know."""

    lead: str
    remarks: list[str]


@dataclass(frozen=True)
class Comparison:
    """mIoU of one method minus another's, seed by seed."""

    method: str
    other: str
    differences: np.ndarray  # (seeds,)

    @property
    def mean(self) -> float:
        return float(self.differences.mean())

    @property
    def std(self) -> float:
        return float(self.differences.std(ddof=1)) if len(self.differences) > 1 else math.nan

    @property
    def clear(self) -> bool:
        """The difference exceeds its own spread over seeds (never so with one seed)."""
        return len(self.differences) > 1 and abs(self.mean) > self.std


def compare(seeds: pd.DataFrame, method: str, other: str) -> Comparison:
    """`seeds`: the per-seed rows of one dataset and partition."""
    table = seeds.pivot(index="seed", columns="method", values="miou")
    return Comparison(method, other, (table[method] - table[other]).to_numpy())


def read(seeds: pd.DataFrame, baseline: str) -> Reading:
    """Read the per-seed rows of one dataset and partition (see tables.per_seed)."""
    means = seeds.groupby("method", sort=False)["miou"].mean().sort_values(ascending=False, kind="stable")
    order = [str(name) for name in means.index]
    number = seeds["seed"].nunique()
    if len(order) == 1:
        only = f"Only {spoken(order[0])} was run: {percent(means.iloc[0])} % mIoU; there is nothing to compare it with."
        return Reading(only, _cautions(seeds, order, number))
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
        remarks.append(f"The baseline ({spoken(baseline)}) is not in the grid, so no differences to it are shown.")
    return Reading(lead, remarks + _compute(seeds, order, baseline) + _cautions(seeds, order, number))


def _verdict(comparison: Comparison) -> str:
    """How far to trust the difference."""
    number = len(comparison.differences)
    if number == 1:
        return "With one seed nobody can say how much of this is chance."
    if comparison.clear:
        return f"The difference exceeds its spread over {_count(number, 'seed')} (± {spread(comparison.std)})."
    return (
        f"That is within what the difference varies by over {_count(number, 'seed')}"
        f" (± {spread(comparison.std)}): these runs do not tell the two apart."
    )


def _against(comparison: Comparison) -> str:
    """One method against the baseline; says plainly where there is no gain."""
    method, other = spoken(comparison.method), spoken(comparison.other)
    by = f"{points(comparison.mean)} points"
    if len(comparison.differences) > 1:
        by += f" ± {spread(comparison.std)}"
    if comparison.mean <= 0:
        sure = "" if comparison.clear or len(comparison.differences) == 1 else ", within the spread over seeds"
        return f"{method} does not beat {other} here ({by}{sure})."
    if len(comparison.differences) == 1:
        return f"{method} stands above {other} ({by}), on one seed."
    if comparison.clear:
        return f"{method} beats {other} by more than the spread over seeds ({by})."
    return f"{method} stands above {other} ({by}), but within the spread over seeds: no gain is shown."


def _compute(seeds: pd.DataFrame, order: list[str], baseline: str) -> list[str]:
    """Unequal compute, where methods had it."""
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
    return [f"Not equal compute: taking {spoken(baseline)} as 1, {'; '.join(told)}."]


def _cautions(seeds: pd.DataFrame, order: list[str], number: int) -> list[str]:
    found = []
    means = seeds.groupby("method", sort=False)[["miou", "best_miou"]].mean()
    optimism = (means["best_miou"] - means["miou"]).dropna()
    if len(optimism) and optimism.max() >= 0.0005:
        method = str(optimism.idxmax())
        text = (
            "Picking each run's best epoch on the validation images would add up to"
            f" {_amount(optimism.max())} ({spoken(method)}); the headline is the last epoch and does not."
        )
        best = str(means["best_miou"].idxmax())
        if len(order) > 1 and best != order[0]:
            text += f" By best epoch {spoken(best)} would be ahead."
        found.append(text)
    if number == 2:
        found.append("Two seeds: a spread estimated from two numbers is itself rough.")
    return found


def teachers(method: str, runs: Sequence[Run]) -> str:
    """How far a method's teachers stayed from the student, averaged over epochs and seeds; "" without one."""
    history = pd.concat([run.history for run in runs])
    if history["distance_active"].isna().all():
        return ""
    mean = {name: float(history[name].mean()) for name in history if name.startswith(("distance_", "disagreement_"))}
    text = (
        f"{spoken(method)}: the active teacher is {percent(mean['distance_active'])} % away from the student in its"
        f" parameters and labels {percent(mean['disagreement_active'])} % of the pixels otherwise"
    )
    if not math.isnan(mean["distance_waiting"]):
        text += f"; the waiting one {percent(mean['distance_waiting'])} % and {percent(mean['disagreement_waiting'])} %"
    return text + "."


def pseudo_labels(method: str, runs: Sequence[Run]) -> str:
    """How many pseudo-labels pass the threshold at the last check and how many are right; "" without any."""
    last = [run.history.dropna(subset="probe_coverage").tail(1) for run in runs]
    table = pd.concat(last)
    if table.empty:
        return ""
    coverage, kept, every = (table[name].mean() for name in ("probe_coverage", "probe_accuracy", "probe_accuracy_all"))
    return (
        f"{spoken(method)}: at the last check {percent(coverage)} % of the probe's pixels are kept;"
        f" {percent(kept)} % of those are right, of all pixels {percent(every)} %."
    )


def _count(number: int, noun: str) -> str:
    word = NUMBERS[number] if number < len(NUMBERS) else str(number)
    return f"{word} {noun}" + ("" if number == 1 else "s")


def _amount(difference: float) -> str:
    """0.012 → 1.2 points; what rounds to nothing is said to be less than a tenth."""
    size = 100 * abs(difference)
    text = "less than 0.1" if size < 0.05 else f"{size:.1f}"
    return f"{text} point{'' if text in ('1.0', 'less than 0.1') else 's'}"
