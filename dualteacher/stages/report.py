"""Write the report on all runs: tables, figures and one page. Does not import torch."""

from __future__ import annotations

from pathlib import Path

from dualteacher.reporting import figures, insight, results, tables
from dualteacher.reporting.figures import drawing
from dualteacher.reporting.page import build
from dualteacher.settings import Settings
from dualteacher.system import console, files, paths


def run(settings: Settings) -> None:
    """Write results/report and results/summary.json for all runs of `settings.grid`; print the table.

    UserError if a run's file is missing, with the command that creates it.
    """
    loaded = results.load(settings)
    seeds = tables.per_seed(loaded)
    table = tables.aggregate(seeds)
    tables.write(table, seeds, tables.curves(loaded), paths.REPORT, settings.report.baseline)
    insight.write(loaded, seeds, paths.REPORT)
    print(tables.plain(table))  # before anything that may fail
    drawn = figures.build(loaded)
    folder = paths.REPORT / "figures"
    for old in folder.glob("*"):  # left from a larger grid; Snakemake removes only declared files
        old.unlink()
    for name, figure in console.progress(list(drawn.items()), "figures", unit="figure"):
        drawn[name] = drawing.write(figure, folder)
    path = build.write(loaded, table, seeds, drawn, Path("params.yaml").read_text(encoding="utf-8"))
    files.write_json(paths.SUMMARY, tables.summary(table))
    print(f"\nreport: {path}")
