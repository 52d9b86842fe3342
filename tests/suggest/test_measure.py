"""docs/labelling/measure.py, but for its half an hour of training."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path
from typing import Any

from dualteacher.cli import By

ROOT = Path(__file__).parents[2]


def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs/labelling/measure.py"))


def test_every_way_of_choosing_is_measured_with_valid_settings() -> None:
    found = script()
    assert set(found["STRATEGIES"]) == {by.value for by in By}
    assert {"first", *found["STRATEGIES"]} == set(found["load"]().partition)


def test_the_page_has_the_figures_of_the_table() -> None:
    page = (ROOT / "docs/labelling.md").read_text(encoding="utf-8")
    with open(ROOT / "docs/labelling/results.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and len({(row["seed"], row["chosen_by"]) for row in rows}) == len(rows)
    for row in rows:
        assert f"{float(row['miou']):.3f}" in page, row
