"""The page's tables: their columns, and each cell's text and sort key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dualteacher.reporting import tables
from dualteacher.reporting.figures import classes
from dualteacher.reporting.page import runs
from dualteacher.reporting.results import Results, Run, spoken


@dataclass(frozen=True)
class TableEntry:
    """A table cell: its text, sort key and marks."""

    text: str
    sort: float | str | None = None
    color: str = ""  # CSS colour of the swatch or strip
    code: bool = False
    strip: Sequence[float] = ()  # the seeds' positions, 0…1, drawn with their mean
    head: bool = False  # row header
    links: Sequence[tuple[str, str, str]] = ()  # instead of the text: (text, anchor, description)


@dataclass(frozen=True)
class Table:
    """A table's caption, column heads and rows."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[TableEntry]]
    filtered: bool = False  # with a search field, for long tables


def _names(results: Results, row: Any, colors: dict[str, str]) -> list[TableEntry]:
    """Leading cells of a row: dataset and partition where there are several, then the method."""
    grid = results.settings.grid
    entries = [TableEntry(row.dataset)] if len(grid.dataset) > 1 else []
    entries += [TableEntry(row.partition)] if len(grid.partitions) > 1 else []
    bound = " (bound)" if getattr(row, "bound", False) else ""
    return [*entries, TableEntry(spoken(row.method) + bound, color=colors[row.method], head=True)]


def _columns(results: Results, *more: str) -> list[str]:
    grid = results.settings.grid
    shown = ["dataset"] if len(grid.dataset) > 1 else []
    shown += ["partition"] if len(grid.partitions) > 1 else []
    return [*shown, "method", *more]


def _score(row: Any, name: str, shown: Any = tables.percent) -> TableEntry:
    mean, std = getattr(row, f"{name}_mean"), getattr(row, f"{name}_std")
    return TableEntry(tables.score(mean, std, shown), mean)


def result_table(results: Results, table: pd.DataFrame, seeds: pd.DataFrame, colors: dict[str, str]) -> Table:
    low, high = seeds["miou"].min(), seeds["miou"].max()
    reach = max(high - low, 0.001)
    rows = []
    for row in table.itertuples():
        runs = results.of(str(row.dataset), str(row.partition), str(row.method))
        values = [run.metrics["miou"] for run in runs]
        strip = [(value - low) / reach for value in values]
        rows.append(
            [
                *_names(results, row, colors),
                _score(row, "miou"),
                TableEntry("", row.miou_mean, colors[str(row.method)], strip=strip),
                _score(row, "difference", tables.points),
                TableEntry(
                    tables.span(row.difference_t_low, row.difference_t_high, row.difference_n, 2), row.difference_t_low
                ),
                TableEntry(tables.span(row.difference_low, row.difference_high, row.difference_n), row.difference_low),
                _score(row, "best_miou"),
                _score(row, "pixel_accuracy"),
                _score(row, "mean_accuracy"),
                TableEntry("", row.seeds, links=[_link(run, str(run.cell.seed)) for run in runs]),
            ]
        )
    ends = f"each seed, {tables.percent(low)} … {tables.percent(high)}"
    against = f"Δ {spoken(results.settings.report.baseline)}"
    more = ("95 % t interval", "95 % bootstrap", "best epoch", "pixel acc.", "mean acc.", "seeds")
    columns = _columns(results, "mIoU", ends, against, *more)
    return Table("Scores on the validation images, %", columns, rows)


def _link(run: Run, text: str) -> tuple[str, str, str]:
    """Link to the run's sheet."""
    cell = run.cell
    named = f"{spoken(cell.method)}, {cell.dataset}, {cell.partition}, seed {cell.seed}"
    return text, runs.target(cell), f"Parameters, hashes and log of {named}"


def run_table(results: Results, colors: dict[str, str]) -> Table:
    """One row per run, with a link to its sheet."""
    rows = []
    for run in results.runs:
        cell, metrics = run.cell, run.metrics
        best = float("nan") if metrics["best_miou"] is None else float(metrics["best_miou"])
        rows.append(
            [
                *_names(results, cell, colors),
                TableEntry(str(cell.seed), cell.seed),
                TableEntry(tables.percent(float(metrics["miou"])), float(metrics["miou"])),
                TableEntry(tables.percent(best), best),
                TableEntry(tables.percent(float(metrics["pixel_accuracy"])), float(metrics["pixel_accuracy"])),
                TableEntry(tables.duration(float(run.cost["seconds"])), float(run.cost["seconds"])),
                TableEntry(", ".join(dict.fromkeys(alarm["name"] for alarm in run.alarms)) or "none"),
                TableEntry(str(metrics.get("weights_sha256") or tables.NONE)[:8], code=True),
                TableEntry("", links=[_link(run, "details")]),
            ]
        )
    more = ("seed", "mIoU", "best epoch", "pixel acc.", "time", "alarms", "weights", "")
    return Table("Every run; scores in %", _columns(results, *more), rows, filtered=len(rows) > 12)


def cost_table(results: Results, table: pd.DataFrame, colors: dict[str, str]) -> Table:
    rows = [
        [
            *_names(results, row, colors),
            TableEntry(tables.whole(row.student_images), row.student_images),
            TableEntry(tables.whole(row.teacher_images), row.teacher_images),
            TableEntry(tables.duration(row.seconds), row.seconds),
            TableEntry(tables.rate(row.images_per_second), row.images_per_second),
            TableEntry(tables.memory(row.peak_memory_bytes), row.peak_memory_bytes),
            TableEntry(tables.millions(row.parameters), row.parameters),
            TableEntry(row.device),
        ]
        for row in table.itertuples()
    ]
    more = ("student images", "teacher images", "time", "images/s", "peak memory", "parameters", "device")
    return Table(
        "Cost of training one run, mean over seeds, excluding the shared warm-up",
        _columns(results, *more),
        rows,
    )


def data_table(results: Results) -> Table:
    rows = []
    first = {part: results.settings.grid.methods_on(part)[0] for part in results.settings.grid.partitions}
    for run in (run for run in results.runs if run.cell.method == first[run.cell.partition]):
        cell, split = run.cell, run.provenance
        missing = [results.classes[cell.dataset][index].name for index in split.get("classes_missing") or []]
        rows.append(
            [
                *(TableEntry(cell.dataset), TableEntry(cell.partition), TableEntry(str(cell.seed), cell.seed)),
                TableEntry(tables.whole(split["labelled"]), split["labelled"]),
                TableEntry(tables.whole(split["unlabelled"]), split["unlabelled"]),
                TableEntry(tables.whole(run.metrics["images"]), run.metrics["images"]),
                TableEntry(", ".join(missing) or "none"),
                TableEntry(tables.named_split(str(split.get("list") or ""), str(split["list_sha256"])), code=True),
                TableEntry(str(split["pack_sha256"])[:8], code=True),
            ]
        )
    columns = ["dataset", "partition", "seed", "labelled", "unlabelled", "validation"]
    columns += ["unlabelled classes", "labelled list", "images"]
    return Table(
        "Image counts, with the name of the official list if one was used, and the first digits of the SHA-256 of the"
        " labelled list and of the packed images",
        columns,
        rows,
    )


def class_table(results: Results, dataset: str, partition: str) -> Table:
    of_method = {m: classes.class_iou(runs) for m, runs in results.by_method(dataset, partition).items()}
    share = next(iter(of_method.values()))["share"]
    rows = []
    for index, entry in enumerate(results.classes[dataset]):
        red, green, blue = entry.color
        cells = [
            TableEntry(entry.name, color=f"rgb({red} {green} {blue})", head=True),
            TableEntry(tables.percent(share[index]), share[index]),
        ]
        cells += [TableEntry(tables.percent(t["mean"][index]), t["mean"][index]) for t in of_method.values()]
        rows.append(cells)
    rows.sort(key=lambda row: -float(row[1].sort or 0))
    return Table("IoU by class, mean over seeds, %", ["class", "% of pixels", *map(spoken, of_method)], rows)
