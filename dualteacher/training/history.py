"""The columns of history.parquet, which has one row an epoch: declared here and nowhere else.

The table's types, the rows' blanks, docs/reference/files.md and the report's check of its inputs follow from COLUMNS.
Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

Row = dict[str, Any]  # one epoch, by column
CLASS_IOU = "val_class_iou"  # in a row, no column: a list in the classes' order, for the alarms
Part = Literal["loop", "losses", "validation", "probe", "distance"]


@dataclass(frozen=True)
class Column:
    """A column, its pandas dtype, what it means, and the part of training that fills it.

    loop and losses: training.loop; validation, probe and distance: training.diagnostics.
    """

    name: str
    dtype: str
    meaning: str
    part: Part


COLUMNS = (
    Column("epoch", "int64", "from 0; an epoch is one pass over the labelled images", "loop"),
    Column("step", "int64", "optimiser steps until its end", "loop"),
    Column("learning_rate", "float64", "of the backbone, at its end", "loop"),
    Column("loss", "float64", "mean over the epoch, like the four below", "losses"),
    Column("loss_supervised", "float64", "on the labelled images", "losses"),
    Column("loss_mix", "float64", "on the mixed, or otherwise strongly augmented, images", "losses"),
    Column("loss_consistency", "float64", "of the strong view", "losses"),
    Column("mix", "string", "cutmix or classmix; null: none", "loop"),
    Column("teacher", "Int64", "index of the labelling teacher; null: none", "loop"),
    Column("kept", "float64", "share of the unlabelled pixels whose pseudo-label passes the threshold", "losses"),
    Column("skipped", "int64", "batches left out, optimizer.bad_batch: skip", "losses"),
    Column(
        *("val_miou", "float64"),
        *("of the student on the validation images; NaN where not measured, as below", "validation"),
    ),
    Column("val_pixel_accuracy", "float64", "", "validation"),
    Column(
        *("val_swallowed", "float64"),
        *("largest share of the other classes' validation pixels predicted as one class", "validation"),
    ),
    Column("held_out_miou", "float64", "on held-out labelled images, partition.NAME.held_out", "validation"),
    Column("probe_coverage", "float64", "share of the probe images' pixels that pass the threshold", "probe"),
    Column("probe_accuracy", "float64", "share of these that are right", "probe"),
    Column("probe_accuracy_all", "float64", "the same of all pixels", "probe"),
    Column(
        "distance_active", "float64", "‖teacher − student‖ / ‖student‖ over the active teacher's parameters", "distance"
    ),
    Column("distance_waiting", "float64", "of the waiting teacher", "distance"),
    Column(
        "disagreement_active",
        "float64",
        "share of the probe's pixels that teacher and student label differently",
        "probe",
    ),
    Column("disagreement_waiting", "float64", "of the waiting teacher", "probe"),
)
NAMES = [column.name for column in COLUMNS]


def names(*parts: Part) -> list[str]:
    """The columns that these parts fill, in the table's order."""
    return [column.name for column in COLUMNS if column.part in parts]


def blank(*parts: Part) -> Row:
    """NaN in every column of these parts: not measured in this epoch."""
    return dict.fromkeys(names(*parts), math.nan)


def table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows under COLUMNS; what is not a column (the snapshots) is left out."""
    return pd.DataFrame(list(rows), columns=NAMES).astype({column.name: column.dtype for column in COLUMNS})
