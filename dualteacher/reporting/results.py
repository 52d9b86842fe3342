"""Load everything the report needs: the grid's runs, their partitions and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dualteacher.data import class_table
from dualteacher.data.class_table import ClassInfo
from dualteacher.settings import Settings
from dualteacher.system import paths, sealed
from dualteacher.system.errors import UserError
from dualteacher.training import history

COST = [
    "seconds",
    "images_per_second",
    "peak_memory_bytes",
    "student_images",
    "teacher_images",
    "parameters",
    "device",
    "threads",
]
METRICS = [
    "miou",
    "pixel_accuracy",
    "mean_accuracy",
    "best_miou",
    "best_epoch",
    "last_epoch",
    "selected",
    "selected_epoch",
    "images",
    "partition_sha256",
]
PER_CLASS = ["class_index", "class_name", "iou", "accuracy", "target_pixels", "predicted_pixels"]
SPOKEN = {"cps": "CPS", "fixmatch": "FixMatch", "unimatch": "UniMatch", "unimatch_v2": "UniMatch V2"}
PICTURES = ["image_id", "right", "image", "truth", "prediction"]
PER_IMAGE = ["image_id", "miou", "pixel_accuracy"]
CALIBRATION = ["low", "high", "pixels", "right", "confidence"]
SNAPSHOTS = ["epoch", "step", "image_id", "prediction"]
PROVENANCE = ["labelled", "held_out", "unlabelled", "list_sha256", "pack_sha256"]


@dataclass(frozen=True, eq=False)
class Run:
    """One run with the contents of all its files."""

    cell: paths.Cell
    metrics: dict[str, Any]
    cost: dict[str, Any]
    history: pd.DataFrame
    per_class: pd.DataFrame
    per_image: pd.DataFrame
    calibration: pd.DataFrame  # see training.calibration
    snapshots: pd.DataFrame  # see training.snapshots
    alarms: list[dict[str, Any]]  # see training.alarms
    confusion: np.ndarray  # (C, C) int64, rows: ground truth, columns: prediction
    provenance: dict[str, Any]
    pictures: pd.DataFrame  # see evaluation.gallery.save


@dataclass(frozen=True, eq=False)
class Results:
    """All runs of the grid, in the grid's order."""

    settings: Settings
    runs: Sequence[Run]
    classes: dict[str, list[ClassInfo]]  # by dataset

    def of(self, dataset: str, partition: str, method: str) -> list[Run]:
        """The runs of one table row, by seed in the grid's order."""
        wanted = (dataset, partition, method)
        return [run for run in self.runs if (run.cell.dataset, run.cell.partition, run.cell.method) == wanted]

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Each (dataset, partition) within which methods are compared.

        Excludes the partitions of `grid.also.bound`, which appear only in the tables and the score figure.
        """
        grid = self.settings.grid
        return [(dataset, partition) for dataset in grid.dataset for partition in grid.partition]

    def by_method(self, dataset: str, partition: str) -> dict[str, list[Run]]:
        """The runs of each method of a partition."""
        return {m: self.of(dataset, partition, m) for m in self.settings.grid.methods_on(partition)}


def load(settings: Settings) -> Results:
    """Load every run of `settings.grid`.

    Raises UserError if a file is missing or invalid, or if runs to be compared used different labelled images or
    chose their epoch in different ways.
    """
    grid = settings.grid
    classes = {dataset: class_table.read(dataset) for dataset in grid.dataset}
    runs = [
        _run(paths.Cell(dataset, partition, method, seed), len(classes[dataset]))
        for dataset, partition, method in grid.rows
        for seed in grid.seed
    ]
    _same_splits(runs)
    return Results(settings, runs, classes)


def spoken(name: str) -> str:
    """Display name of a method: dual_teacher → Dual Teacher, cps → CPS."""
    return SPOKEN.get(name) or name.replace("_", " ").title()


def _run(cell: paths.Cell, num_classes: int) -> Run:
    split = paths.Partition(cell.dataset, cell.partition, cell.seed)
    train, evaluate = _command("train", cell), _command("evaluate", cell)
    _present(cell.gallery, evaluate)
    return Run(
        cell,
        metrics=_json(cell.metrics, METRICS, evaluate),
        cost=_json(cell.cost, COST, train),
        history=_table(cell.history, history.NAMES, train),
        per_class=_table(cell.per_class, PER_CLASS, evaluate).sort_values("class_index", ignore_index=True),
        per_image=_table(cell.per_image, PER_IMAGE, evaluate),
        calibration=_table(cell.calibration, CALIBRATION, train),
        snapshots=_table(cell.snapshots, SNAPSHOTS, train),
        alarms=_json(cell.alarms, ["alarms"], train)["alarms"],
        confusion=_confusion(cell.confusion, num_classes, evaluate),
        provenance=_json(
            split.provenance,
            PROVENANCE,
            f"python -m dualteacher partition --dataset {cell.dataset} --partition {cell.partition} --seed {cell.seed}",
        ),
        pictures=_table(cell.pictures, PICTURES, evaluate),
    )


def _command(stage: str, cell: paths.Cell) -> str:
    return (
        f"python -m dualteacher {stage} --dataset {cell.dataset} --partition {cell.partition}"
        f" --method {cell.method} --seed {cell.seed}"
    )


def _present(path: Path, command: str) -> None:
    if not path.is_file():
        raise UserError(f"{path}: missing, but required for the report; create it with `{command}`")


def _json(path: Path, keys: Sequence[str], command: str) -> dict[str, Any]:
    _present(path, command)
    try:
        value = sealed.read_json(path)
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and run `{command}`") from None
    lacking = [key for key in keys if key not in value] if isinstance(value, dict) else list(keys)
    if lacking:
        raise UserError(f"{path}: has no '{lacking[0]}'; recreate it with `{command}`")
    return value


def _table(path: Path, columns: Sequence[str], command: str) -> pd.DataFrame:
    _present(path, command)
    try:
        table = sealed.read_table(path).to_pandas()
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"{path}: not a readable table ({error}); delete it and run `{command}`") from None
    lacking = [name for name in columns if name not in table]
    if lacking:
        raise UserError(f"{path}: has no column '{lacking[0]}'; recreate it with `{command}`")
    return table


def _confusion(path: Path, num_classes: int, command: str) -> np.ndarray:
    """Read a long-format table (target, prediction, pixels) → (C, C)."""
    table = _table(path, ("target", "prediction", "pixels"), command)
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    target, prediction = table["target"].to_numpy(), table["prediction"].to_numpy()
    if len(table) and max(target.max(), prediction.max()) >= num_classes:
        raise UserError(
            f"{path}: contains class {max(target.max(), prediction.max())}, but classes.json has only"
            f" {num_classes} classes; recreate it with `{command}`"
        )
    np.add.at(matrix, (target, prediction), table["pixels"].to_numpy())
    return matrix


def _same_splits(runs: Sequence[Run]) -> None:
    """Raise UserError if runs to be compared or averaged differ in labelled images or in how the epoch was chosen."""
    chosen: dict[tuple[str, str], Run] = {}
    for run in runs:
        first = chosen.setdefault((run.cell.dataset, run.cell.partition), run)
        if first.metrics["selected"] != run.metrics["selected"]:
            raise UserError(
                f"{run.cell.metrics}: epoch choice is {run.metrics['selected']}, but {first.metrics['selected']} in"
                f" {first.cell.metrics}; rerun both with `snakemake --cores all --forcerun train`"
            )
    seen: dict[tuple[str, str, int], Run] = {}
    for run in runs:
        first = seen.setdefault((run.cell.dataset, run.cell.partition, run.cell.seed), run)
        if first.metrics["partition_sha256"] != run.metrics["partition_sha256"]:
            raise UserError(
                f"{run.cell.metrics}: trained on different labelled images from {first.cell.metrics};"
                f" rerun both with `snakemake --cores all --forcerun train`"
            )
