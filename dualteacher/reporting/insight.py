"""Tables behind the scores: comparisons, gains by class, calibration, hardest images, alarms.

Each is written as a CSV file to the report's folder; the figures and the page show the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dualteacher.reporting import statistics
from dualteacher.reporting.results import Results, Run
from dualteacher.system import files
from dualteacher.training.alarms import with_names

HARDEST = 12  # images for each dataset and partition
GAINS = ["dataset", "partition", "method", "class_index", "class_name", *statistics.NAMES]
ALARMS = ["dataset", "partition", "method", "seed", "alarm", "epoch", "step", "text"]


def write(results: Results, seeds: pd.DataFrame, folder: Path) -> None:
    """Write this module's tables as CSV files to `folder`; `seeds` comes from tables.per_seed."""
    hard = [hardest(results, *field) for field in results.fields]
    found = {
        "comparisons": comparisons(seeds, results.settings.report.baseline),
        "class_gains": pd.concat([class_gains(results, *field) for field in results.fields], ignore_index=True),
        "calibration": calibration(results),
        "hardest": pd.concat(hard, ignore_index=True),
        "alarms": alarms(results),
    }
    for name, table in found.items():
        files.write_text(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))


def comparisons(seeds: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Each method's mIoU minus the baseline's, paired by seed: one row per dataset, partition and method."""
    rows = []
    for (dataset, partition, method), group in seeds.groupby(["dataset", "partition", "method"], sort=False):
        if method == baseline:
            continue
        found = statistics.paired(group["difference"].to_numpy())
        row = {"dataset": dataset, "partition": partition, "method": method, "baseline": baseline}
        row |= {name: getattr(found, name) for name in statistics.NAMES}
        rows.append(row | {"differences": " ".join(f"{value:.6f}" for value in group["difference"])})
    names = ["dataset", "partition", "method", "baseline", *statistics.NAMES, "differences"]
    return pd.DataFrame(rows, columns=names)


def class_gains(results: Results, dataset: str, partition: str) -> pd.DataFrame:
    """Each method's IoU minus the baseline's by class, paired by seed; columns GAINS."""
    of_method = results.by_method(dataset, partition)
    reference = {run.cell.seed: run.per_class["iou"].to_numpy(float) for run in of_method.get(_base(results), [])}
    rows = []
    for method, runs in of_method.items():
        if method == _base(results):
            continue
        shared = [run for run in runs if run.cell.seed in reference]
        gains = [run.per_class["iou"].to_numpy(float) - reference[run.cell.seed] for run in shared]
        for index, info in enumerate(results.classes[dataset] if gains else []):
            found = statistics.paired(np.array([gain[index] for gain in gains]))
            head = (dataset, partition, method, index, info.name)
            rows.append((*head, *(getattr(found, name) for name in statistics.NAMES)))
    return pd.DataFrame(rows, columns=GAINS)


def _base(results: Results) -> str:
    return results.settings.report.baseline


def calibration(results: Results) -> pd.DataFrame:
    """One row per run: scored pixels, mean confidence, accuracy and expected calibration error (fractions)."""
    rows = []
    for run in results.runs:
        bins, cell = run.calibration, run.cell
        pixels = float(bins["pixels"].sum())
        confidence, right = (
            float(bins[name].sum()) / pixels if pixels else math.nan for name in ("confidence", "right")
        )
        row = {"dataset": cell.dataset, "partition": cell.partition, "method": cell.method, "seed": cell.seed}
        rows.append(row | {"pixels": int(pixels), "confidence": confidence, "accuracy": right, "ece": error(bins)})
    return pd.DataFrame(rows)


def error(bins: pd.DataFrame) -> float:
    """Expected calibration error: |accuracy − mean confidence| of each bin, weighted by pixels; NaN without pixels."""
    pixels = bins["pixels"].sum()
    return float((bins["right"] - bins["confidence"]).abs().sum() / pixels) if pixels else math.nan


def added(runs: Sequence[Run]) -> pd.DataFrame:
    """Calibration bins summed over runs."""
    total = runs[0].calibration.copy()
    for name in ("pixels", "right", "confidence"):
        total[name] = sum(run.calibration[name] for run in runs)
    return total


def hardest(results: Results, dataset: str, partition: str) -> pd.DataFrame:
    """The HARDEST validation images, lowest mIoU first: the mean over methods of each method's mean over seeds.

    Long format: one row per image and method, with rank (from 1), image_id, mean (over methods), method, miou.
    """
    columns = {}
    for method, runs in results.by_method(dataset, partition).items():
        columns[method] = pd.concat([run.per_image.set_index("image_id")["miou"] for run in runs], axis=1).mean(axis=1)
    wide = pd.DataFrame(columns)
    mean = wide.mean(axis=1).sort_values(kind="stable").head(HARDEST)
    rows = [
        (dataset, partition, rank, image_id, mean[image_id], method, wide.loc[image_id, method])
        for rank, image_id in enumerate(mean.index, start=1)
        for method in wide
    ]
    return pd.DataFrame(rows, columns=["dataset", "partition", "rank", "image_id", "mean", "method", "miou"])


def alarms(results: Results) -> pd.DataFrame:
    """Every alarm of every run; columns ALARMS."""
    rows = [
        (
            cell.dataset,
            cell.partition,
            cell.method,
            cell.seed,
            *(alarm[name] for name in ("name", "epoch", "step")),
            with_names(alarm["text"], [info.name for info in results.classes[cell.dataset]]),
        )
        for run, cell in ((run, run.cell) for run in results.runs)
        for alarm in run.alarms
    ]
    return pd.DataFrame(rows, columns=ALARMS)
