"""Small multiples: one panel per method, with the other methods in grey."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from dualteacher.reporting.figures.classes import Runs
from dualteacher.reporting.figures.drawing import GRID, MUTED, Figure, Panel
from dualteacher.reporting.results import Run, spoken


def multiples(name: str, runs: Runs, colors: dict[str, str], bands: dict[str, pd.DataFrame]) -> Figure:
    """Validation mIoU by step; `bands`: tables of figures.over_seeds by method."""
    bands = {method: band for method, band in bands.items() if len(band)}
    values = [100 * run.history["val_miou"].dropna() for method in bands for run in runs[method]]
    low, high = min((v.min() for v in values), default=0.0), max((v.max() for v in values), default=1.0)
    margin = 0.06 * max(high - low, 1.0)
    limits = (max(low - margin, 0.0), high + margin)
    panels = []
    for method in bands:
        text = f"Validation mIoU of {spoken(method)} by step: seeds and their mean, with other methods' means in grey"
        draw = partial(_draw, runs[method], method, colors[method], bands, limits)
        panels.append(Panel(spoken(method), draw, text, (2.6, 1.9)))
    return Figure(name, panels, columns=4, empty="no run was validated during training")


def _draw(
    runs: list[Run], method: str, color: str, bands: dict[str, pd.DataFrame], limits: tuple[float, float], axes: Any
) -> None:
    for other, band in bands.items():
        if other != method:
            axes.plot(band["x"], 100 * band["mean"], color=MUTED, lw=0.9, alpha=0.45)
    for run in runs:
        seen = run.history.dropna(subset="val_miou")
        axes.plot(seen["step"], 100 * seen["val_miou"], color=color, lw=0.9, alpha=0.6)
    axes.plot(bands[method]["x"], 100 * bands[method]["mean"], color=color, lw=2.2)
    axes.grid(axis="y", color=GRID)
    axes.set_xlabel("step")
    axes.set_ylim(*limits)
    axes.margins(x=0.02)
    axes.locator_params(axis="y", nbins=4)
    axes.locator_params(axis="x", nbins=4, integer=True)
