"""Names and files of the report's figures, for Snakemake's rules and the page. Does not import matplotlib."""

from __future__ import annotations

from pathlib import Path

from dualteacher.settings import Grid
from dualteacher.system import paths

SCORES = "scores"  # one for each dataset
KINDS = (  # one for each dataset and partition
    *("curves", "methods", "teachers", "pseudo_labels", "confusion", "per_class", "class_gains", "calibration"),
    *("hardest", "snapshots"),
)
SUFFIXES = ("svg", "png")


def files_of(grid: Grid, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Every figure file of the report for `grid`."""
    names = [f"{dataset}-{SCORES}" for dataset in grid.dataset]
    names += [f"{d}-{p}-{kind}" for d in grid.dataset for p in grid.partition for kind in KINDS]
    return [paths.FIGURES / f"{name}.{suffix}" for name in names for suffix in suffixes]
