"""docs/labelling/measure.py, but for its half an hour of training."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pandas as pd

from dualteacher.cli.networks import By
from dualteacher.reporting import statistics

ROOT = Path(__file__).parents[2]


def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs/labelling/measure.py"))


def test_every_way_of_choosing_is_measured_with_valid_settings() -> None:
    found = script()
    assert set(found["STRATEGIES"]) == {by.value for by in By}
    assert {"first", *found["STRATEGIES"]} == set(found["load"]().partition)


def test_the_page_has_the_figures_of_the_table() -> None:
    page = (ROOT / "docs/labelling.md").read_text(encoding="utf-8").replace("−", "-")
    scores = 100 * pd.read_csv(ROOT / "docs/labelling/results.csv").pivot(
        index="seed", columns="chosen_by", values="miou"
    )
    assert len(scores) == 5 and not scores.isna().any(axis=None)
    for name, values in scores.items():
        assert f"| {values.mean():.1f} ± {values.std():.1f} |" in page, name
        if name != "random":
            gain = statistics.paired((values - scores.random).to_numpy())
            told = f"| {gain.mean:+.1f} ± {gain.std:.1f} | {gain.low:+.1f} … {gain.high:+.1f} |"
            assert told in page, (name, told)
