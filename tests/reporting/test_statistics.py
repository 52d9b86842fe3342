"""Intervals with known answers."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dualteacher.reporting import statistics


def test_three_differences_give_their_range() -> None:
    found = statistics.paired(np.array([0.01, 0.03, 0.02]))
    assert (found.n, found.mean, found.std) == (3, pytest.approx(0.02), pytest.approx(0.01))
    assert (found.low, found.high) == (pytest.approx(0.01), pytest.approx(0.03))
    assert found.clear


def test_student_s_interval_has_known_values() -> None:
    found = statistics.paired(np.array([1.0, 2.0, 3.0]))
    assert (found.t_low, found.t_high) == (pytest.approx(2 - 2.484138), pytest.approx(2 + 2.484138))
    two = statistics.paired(np.array([1.0, 3.0]))
    assert (two.t_low, two.t_high) == (pytest.approx(2 - 12.706205), pytest.approx(2 + 12.706205))
    assert math.isnan(statistics.paired(np.array([1.0])).t_low)
    same = statistics.paired(np.array([0.5, 0.5, 0.5]))
    assert same.t_low == same.t_high == 0.5


def test_student_s_interval_holds_the_mean_in_95_of_100_cases() -> None:
    drawn = np.random.default_rng(0).standard_normal((4000, 3))
    held = [low <= 0 <= high for low, high in map(statistics.t_interval, drawn)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_below_three_seeds_there_is_no_interval() -> None:
    two = statistics.paired(np.array([0.01, 0.03]))
    assert math.isnan(two.low) and not two.known and two.clear  # by its spread
    assert not statistics.paired(np.array([0.01, -0.03])).clear
    one = statistics.paired(np.array([0.01]))
    assert one.mean == 0.01 and math.isnan(one.std) and not one.clear
    assert statistics.paired(np.array([])).n == 0


def test_a_seed_that_the_baseline_lacks_does_not_count() -> None:
    assert statistics.paired(np.array([0.01, np.nan, 0.03])).n == 2


def test_tails_are_taken_further_out_for_few_seeds_and_as_usual_for_many() -> None:
    assert statistics.expanded_tail(3) < 1e-6
    expected = stats.norm.cdf(math.sqrt(5 / 4) * stats.t.ppf(0.025, 4))
    assert statistics.expanded_tail(5) == pytest.approx(expected)
    assert statistics.expanded_tail(1000) == pytest.approx(0.025, abs=2e-4)


def test_small_samples_are_enumerated() -> None:
    values = np.array([0.0, 1.0, 2.0, 5.0])
    means = sorted(np.mean([values[i] for i in chosen]) for chosen in np.ndindex(4, 4, 4, 4))
    tail = statistics.expanded_tail(4)
    assert statistics.interval(values) == pytest.approx(tuple(np.quantile(means, [tail, 1 - tail])))


def test_many_seeds_give_nearly_students_interval_the_same_each_time() -> None:
    values = np.random.default_rng(1).normal(0.01, 0.02, 20)
    low, high = statistics.interval(values)
    half = stats.t.ppf(0.975, 19) * values.std(ddof=1) / math.sqrt(20)
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert statistics.interval(values) == (low, high)


def test_shifting_and_scaling_move_the_interval_along() -> None:
    values = np.array([0.3, -0.1, 0.25, 0.4, 0.05])
    low, high = statistics.interval(values)
    assert statistics.interval(2 * values - 1) == pytest.approx((2 * low - 1, 2 * high - 1))
    assert statistics.interval(-values) == pytest.approx((-high, -low))


@pytest.mark.parametrize("n", [3, 5])
def test_its_coverage_is_what_docs_report_md_says(n: int) -> None:
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    seeds, held = (
        [text.strip() for text in line.split("|")[2:-1]] for line in re.findall(r"^\| (?:seeds|coverage).*", page, re.M)
    )
    said = dict(zip(map(int, seeds), map(float, held), strict=True))
    assert 100 * statistics.coverage(n, 1000) == pytest.approx(said[n], abs=0.05)
    assert said[3] < 83 and said[10] > 93
