"""Figures about classes: confusion matrices and IoU by class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from dualteacher.reporting.figures.drawing import HEAT, INK, Figure, Panel
from dualteacher.reporting.results import Run, spoken
from dualteacher.reporting.tables import percent

CLASSES_A_PANEL = 30
Runs = dict[str, list[Run]]  # by method


def normalised(runs: Sequence[Run]) -> np.ndarray:
    """(C, C) confusion over all seeds; rows are true classes and sum to 1, NaN for absent classes."""
    total = np.sum([run.confusion for run in runs], axis=0).astype(float)
    pixels = total.sum(axis=1, keepdims=True)
    return np.divide(total, pixels, out=np.full_like(total, np.nan), where=pixels > 0)


def confusion(name: str, runs: Runs, names: Sequence[str]) -> Figure:
    side = float(np.clip(1.9 + 0.22 * len(names), 3.0, 6.4))
    panels = []
    for method, of_method in runs.items():
        shares = normalised(of_method)
        text = f"Confusion matrix of {spoken(method)}: rows: true class, columns: predicted class, in % of the row"
        panels.append(Panel(spoken(method), partial(_draw_confusion, shares, names), text, (side, 0.95 * side)))
    return Figure(name, panels, columns=2 if len(panels) in (2, 4) else 3)


def mistakes(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """The three most frequent confusions, as text."""
    shares = pd.DataFrame(normalised(runs)).stack().dropna()
    wrong = shares[[true != predicted for true, predicted in shares.index]].sort_values(ascending=False, kind="stable")
    return [
        f"{percent(share)} % of {names[true]} predicted as {names[predicted]}"
        for (true, predicted), share in wrong.head(3).items()
        if share > 0
    ]


def _draw_confusion(shares: np.ndarray, names: Sequence[str], axes: Any) -> None:
    """Draw shares as opacity, to suit light and dark pages; with numbers for up to 12 classes."""
    count = len(names)
    filled = np.nan_to_num(shares) ** 0.7  # makes shares of a few per cent visible
    image = np.concatenate([np.broadcast_to(HEAT, (count, count, 3)), filled[..., None]], axis=-1)
    axes.imshow(image, interpolation="none", aspect="equal")
    if count <= 12:
        for (row, column), value in np.ndenumerate(shares):
            if value >= 0.005:
                color = "#ffffff" if value > 0.75 else INK
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=color)
    if count <= 40:
        axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(count), names, fontsize=8)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted", fontsize=8)
    axes.set_ylabel("true", fontsize=8)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.5)


def class_iou(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per class: mean, low and high IoU over seeds, and its share of the validation pixels."""
    values = np.stack([run.per_class["iou"].to_numpy(float) for run in runs])
    pixels = runs[0].per_class["target_pixels"].to_numpy(float)
    known = ~np.isnan(values).all(axis=0)
    table = pd.DataFrame({"share": pixels / max(pixels.sum(), 1)})
    reducers: list[tuple[str, Callable[..., Any]]] = [("mean", np.nanmean), ("low", np.nanmin), ("high", np.nanmax)]
    for label, reduce in reducers:
        table[label] = np.nan
        table.loc[known, label] = reduce(values[:, known], axis=0)
    return table


def per_class(
    name: str, runs: Runs, colors: dict[str, str], names: Sequence[str], legend: Sequence[tuple[str, str, str]]
) -> Figure:
    """Bars, most frequent class first, in panels of at most CLASSES_A_PANEL classes."""
    tables = {method: class_iou(of_method) for method, of_method in runs.items()}
    order = next(iter(tables.values())).sort_values("share", ascending=False, kind="stable").index.to_numpy()
    chunks = [order[i : i + CLASSES_A_PANEL] for i in range(0, len(order), CLASSES_A_PANEL)]
    panels = []
    for i, chunk in enumerate(chunks):
        title = (
            "IoU (%)"
            if len(chunks) == 1
            else f"IoU (%), classes {i * CLASSES_A_PANEL + 1}–{i * CLASSES_A_PANEL + len(chunk)}"
        )
        text = f"{title} by class for {', '.join(map(spoken, runs))}; the numbers are in the table beside it"
        height = 0.7 + len(chunks[0]) * max(0.11 * len(runs) + 0.1, 0.24)
        panels.append(Panel(title, partial(_draw_bars, tables, colors, names, chunk), text, (4.6, height)))
    return Figure(name, panels, legend, 2)


def _draw_bars(
    tables: dict[str, pd.DataFrame], colors: dict[str, str], names: Sequence[str], chunk: np.ndarray, axes: Any
) -> None:
    thick = 0.78 / len(tables)
    at = np.arange(len(chunk))
    for i, (method, table) in enumerate(tables.items()):
        rows = table.loc[chunk]
        y = at + thick * (i - (len(tables) - 1) / 2)
        axes.barh(y, 100 * rows["mean"].fillna(0), thick * 0.88, color=colors[method], alpha=0.9)
        axes.hlines(y, 100 * rows["low"], 100 * rows["high"], color=INK, lw=1, alpha=0.55)
    axes.set_yticks(at, [names[i] for i in chunk])
    axes.set_ylim(len(chunk) - 0.5, -0.5)
    axes.grid(axis="x")
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlim(left=0)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)
