"""The report's figures. figure_names.py (in reporting/) lists their names, drawing.py renders them.

Lines are means over seeds. Bands span the lowest to the highest seed: with two or three seeds, any other band would
rest on assumptions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from dualteacher.reporting.figures import classes, drawing, insight, methods
from dualteacher.reporting.figures.classes import Runs
from dualteacher.reporting.figures.drawing import MARKERS, MUTED, Figure, Panel
from dualteacher.reporting.results import Results, Run, spoken

DASH = (0, (3, 1.6))


def build(results: Results) -> dict[str, Figure]:
    """All figures by name."""
    grid, baseline = results.settings.grid, results.settings.report.baseline
    colors = drawing.colors(grid.methods, baseline)
    makers: dict[str, Callable[[], Figure]] = {
        f"{dataset}-scores": partial(_scores, results, dataset, colors) for dataset in grid.dataset
    }
    for dataset, part in results.fields:
        runs = results.by_method(dataset, part)
        names = [entry.name for entry in results.classes[dataset]]
        stem = f"{dataset}-{part}"
        for kind, make in {
            "curves": _curves,
            "methods": _methods,
            "teachers": _teachers,
            "pseudo_labels": _pseudo_labels,
        }.items():
            makers[f"{stem}-{kind}"] = partial(make, f"{stem}-{kind}", runs, colors)
        legend = _legend(colors, list(runs))
        makers[f"{stem}-confusion"] = partial(classes.confusion, f"{stem}-confusion", runs, names)
        makers[f"{stem}-per_class"] = partial(classes.per_class, f"{stem}-per_class", runs, colors, names, legend)
        makers |= insight.makers(results, dataset, part, colors)
    return {name: drawing.attempt(name, make, lambda left_out: left_out) for name, make in makers.items()}


def over_seeds(tables: Sequence[pd.DataFrame], x: str, y: str) -> pd.DataFrame:
    """Mean, low and high of column `y` over runs, as columns x, mean, low, high; empty if no run has `y`.

    Seeds may differ in steps per epoch, since their numbers of labelled images differ. So `y` is interpolated linearly
    at every run's points, within the range of `x` that all runs cover.
    """
    known = [table[[x, y]].dropna().astype(float).sort_values(x) for table in tables]
    known = [table for table in known if len(table)]
    if not known:
        return pd.DataFrame(columns=["x", "mean", "low", "high"], dtype=float)
    start, end = max(t[x].iloc[0] for t in known), min(t[x].iloc[-1] for t in known)
    at = np.unique(np.concatenate([table[x].to_numpy() for table in known]))
    at = at[(at >= start) & (at <= end)]
    values = np.stack([np.interp(at, table[x], table[y]) for table in known])
    return pd.DataFrame({"x": at, "mean": values.mean(0), "low": values.min(0), "high": values.max(0)})


# ---------------------------------------------------------------- lines


def _legend(colors: dict[str, str], methods: Sequence[str]) -> list[tuple[str, str, str]]:
    return [(spoken(m), colors[m], MARKERS[list(colors).index(m) % len(MARKERS)]) for m in methods]


def _frame(axes: Any, xlabel: str) -> None:
    axes.grid(axis="y")
    axes.set_xlabel(xlabel)
    axes.margins(x=0.02)
    axes.locator_params(axis="y", nbins=5)
    axes.locator_params(axis="x", nbins=6, integer=True)


def _line(axes: Any, band: pd.DataFrame, method: str, color: str, marker: str = "", dash: Any = "-") -> None:
    """Draw mean line and band; their gid lets the page highlight a method."""
    few = len(band) <= 25
    axes.fill_between(band["x"], band["low"], band["high"], color=color, alpha=0.16, lw=0, gid=f"method:{method}:band")
    axes.plot(
        *(band["x"], band["mean"]),
        color=color,
        ls=dash,
        marker=marker if few else "",
        markersize=3.5,
        gid=f"method:{method}:line",
    )


def _by_method(runs: Runs, colors: dict[str, str], x: str, y: str, scale: float, axes: Any) -> None:
    for i, (method, of_method) in enumerate(runs.items()):
        band = over_seeds([run.history for run in of_method], x, y)
        if len(band):
            band[["mean", "low", "high"]] *= scale
            at_validations = y == "val_miou" or y.startswith("probe")
            _line(axes, band, method, colors[method], MARKERS[i % len(MARKERS)] if at_validations else "")
    _frame(axes, x)


def _line_panels(runs: Runs, colors: dict[str, str], x: str, wanted: Sequence[tuple[str, str, float]]) -> list[Panel]:
    """One panel per (column, title, scale) for which at least one method has data."""
    panels = []
    for column, title, scale in wanted:
        have = [m for m, of_method in runs.items() if any(run.history[column].notna().any() for run in of_method)]
        if have:
            text = f"{title} by {x}, for {', '.join(map(spoken, have))}"
            panels.append(Panel(title, partial(_by_method, runs, colors, x, column, scale), text))
    return panels


def _curves(name: str, runs: Runs, colors: dict[str, str]) -> Figure:
    wanted = [("val_miou", "Validation mIoU (%)", 100.0), ("loss", "Total loss", 1.0)]
    wanted += [("loss_supervised", "Supervised loss", 1.0), ("loss_mix", "Loss on mixed images", 1.0)]
    wanted += [("loss_consistency", "Implicit-consistency loss", 1.0)]
    return Figure(name, _line_panels(runs, colors, "step", wanted), _legend(colors, list(runs)))


def _methods(name: str, runs: Runs, colors: dict[str, str]) -> Figure:
    bands = {m: over_seeds([run.history for run in of_method], "step", "val_miou") for m, of_method in runs.items()}
    return methods.multiples(name, runs, colors, bands)


def _pseudo_labels(name: str, runs: Runs, colors: dict[str, str]) -> Figure:
    """Coverage in training and on the probe images, then the accuracy of the kept and of all pseudo-labels."""
    wanted = [("kept", "Kept in training (% of pixels)", 100.0)]
    wanted += [("probe_coverage", "Kept on the probe images (% of pixels)", 100.0)]
    panels = _line_panels(runs, colors, "epoch", wanted)
    methods = [
        m for m, of_method in runs.items() if any(r.history["probe_accuracy_all"].notna().any() for r in of_method)
    ]
    if methods:
        title = "Correct on the probe images (%)"
        text = f"{title}: kept pseudo-labels and all pseudo-labels by epoch, for {', '.join(map(spoken, methods))}"
        panels.append(Panel(title, partial(_right, {m: runs[m] for m in methods}, colors), text))
    using = [m for m, of_method in runs.items() if any(run.history["kept"].notna().any() for run in of_method)]
    return Figure(name, panels, _legend(colors, using), empty="no method of this grid uses pseudo-labels")


def _right(runs: Runs, colors: dict[str, str], axes: Any) -> None:
    for column, dash, label in (("probe_accuracy", "-", "kept"), ("probe_accuracy_all", DASH, "all")):
        for method, of_method in runs.items():
            band = over_seeds([run.history for run in of_method], "epoch", column)
            band[["mean", "low", "high"]] *= 100
            _line(axes, band, method, colors[method], "o", dash)
        axes.plot([], [], color=MUTED, ls=dash, label=label)
    _frame(axes, "epoch")
    _key(axes)


def _key(axes: Any) -> None:
    """Add a legend for solid and dashed lines, with space for it above the lines."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.16 * (high - low))
    axes.legend(loc="upper right", ncols=2, fontsize=8, labelcolor=MUTED, handlelength=2.6, borderpad=0)


# ---------------------------------------------------------------- teachers


def _with_teachers(runs: Runs) -> list[str]:
    return [m for m, of_method in runs.items() if any(run.history["teacher"].notna().any() for run in of_method)]


def teacher_tables(run: Run, measure: str) -> dict[str, pd.DataFrame]:
    """Each teacher's distance from the student over epochs: {"teacher A": table of epoch and value, …}.

    The history has a column for the active and one for the waiting teacher. Two temporary teachers take turns, so each
    one's curve alternates between these columns. With more than two, the history does not say which of them waits, so
    the curves are "active" and "waiting".
    """
    history = run.history
    active, waiting = history[f"{measure}_active"], history[f"{measure}_waiting"]
    teachers = sorted(int(teacher) for teacher in history["teacher"].dropna().unique())
    if len(teachers) == 1 or waiting.isna().all():
        values = {"teacher": active}
    elif len(teachers) == 2:
        turns = history["teacher"]
        values = {f"teacher {'AB'[i]}": active.where(turns == one, waiting) for i, one in enumerate(teachers)}
    else:
        values = {"active": active, "waiting": waiting}
    return {label: pd.DataFrame({"epoch": history["epoch"], "value": value}) for label, value in values.items()}


def _distance(runs: list[Run], method: str, color: str, measure: str, top: float, axes: Any) -> None:
    tables = [teacher_tables(run, measure) for run in runs]
    labels = list(tables[0])
    turns = runs[0].history[["epoch", "teacher"]].dropna()
    if len(labels) == 2 and len(turns) <= 60:  # shade the epochs of the second teacher
        for epoch in turns.loc[turns["teacher"] == turns["teacher"].max(), "epoch"]:
            axes.axvspan(epoch - 0.5, epoch + 0.5, color=MUTED, alpha=0.08, lw=0)
    for label, dash in zip(labels, ("-", DASH), strict=False):
        band = over_seeds([table[label] for table in tables if label in table], "epoch", "value")
        band[["mean", "low", "high"]] *= 100
        _line(axes, band, method, color, "o" if measure == "disagreement" else "", dash)
        axes.plot([], [], color=color, ls=dash, label=label)
    _frame(axes, "epoch")
    axes.set_ylim(0, top)
    if len(labels) > 1:
        _key(axes)
    else:
        axes.set_ylim(0, 1.16 * top)


def _teachers(name: str, runs: Runs, colors: dict[str, str]) -> Figure:
    methods = _with_teachers(runs)
    panels = []
    size = (4.6, 2.3) if len(methods) <= 2 else (3.3, 2.3)
    for measure, title in (("distance", "parameter distance (%)"), ("disagreement", "disagreeing pixels (%)")):
        columns = [f"{measure}_active", f"{measure}_waiting"]
        peak = max(
            (float(np.nanmax(run.history[columns].to_numpy(float))) for m in methods for run in runs[m]), default=1
        )
        top = 104 * peak or 1.0
        for method in methods:
            draw = partial(_distance, runs[method], method, colors[method], measure, top)
            text = f"{spoken(method)}: {title} between student and each teacher, by epoch"
            panels.append(Panel(f"{spoken(method)}: {title}", draw, text, size))
    empty = "no method of this grid has a teacher"
    return Figure(name, panels, _legend(colors, methods), min(max(len(methods), 1), 3), empty)


# ---------------------------------------------------------------- scores


def _scores(results: Results, dataset: str, colors: dict[str, str]) -> Figure:
    """mIoU against the number of labelled images: a dot per seed, a larger mark for their mean."""
    draw = partial(_draw_scores, results, dataset, colors)
    text = f"mIoU of every method on {dataset} by partition; the numbers are in the results table"
    panel = Panel("mIoU (%)", draw, text, (4.6, 2.7))
    return Figure(f"{dataset}-scores", [panel], _legend(colors, results.settings.grid.methods))


def _draw_scores(results: Results, dataset: str, colors: dict[str, str], axes: Any) -> None:
    grid = results.settings.grid
    labelled = {
        p: np.mean([r.provenance["labelled"] for r in results.runs if r.cell.partition == p]) for p in grid.partitions
    }
    order = sorted(grid.partitions, key=lambda part: labelled[part])
    for i, method in enumerate(grid.methods):
        offset = 0.05 * (i - (len(grid.methods) - 1) / 2)
        means, at = [], []
        for x, part in enumerate(order):
            if method not in grid.methods_on(part):
                continue
            values = [100 * run.metrics["miou"] for run in results.of(dataset, part, method)]
            means.append(np.mean(values))
            at.append(x + offset)
            axes.plot(
                *([x + offset] * len(values), values),
                *("o",),
                color=colors[method],
                alpha=0.4,
                markersize=5,
                markeredgewidth=0,
                gid=f"method:{method}:seeds:{part}",
            )
        marker = MARKERS[i % len(MARKERS)]
        axes.plot(at, means, color=colors[method], lw=1.2, marker=marker, markersize=7, gid=f"method:{method}:mean")
    _frame(axes, "labelled images")
    bounds = dict.fromkeys(grid.also.bound.partition, ", bound")
    for part in bounds:  # a reference line across all partitions
        for method in grid.methods_on(part):
            level = np.mean([100 * run.metrics["miou"] for run in results.of(dataset, part, method)])
            axes.axhline(level, color=colors[method], lw=0.9, ls=DASH, alpha=0.7, zorder=0)
    axes.set_xticks(range(len(order)), [f"{part}{bounds.get(part, '')}\n({labelled[part]:.0f})" for part in order])
    axes.set_xlim(-0.6, len(order) - 0.4)
