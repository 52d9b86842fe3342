"""The columns of history.parquet, one row per epoch.

COLUMNS defines the table's dtypes, the rows' blanks, docs/reference/files.md and the report's input check. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

Row = dict[str, Any]  # one epoch, by column
SNAPSHOTS = "snapshots"  # in rows only: list of class maps (h, w) uint8; see snapshots.py
CLASS_IOU = "val_class_iou"  # in rows only, not a column: per-class IoU, for the alarms
Part = Literal["loop", "losses", "validation", "probe", "distance"]


@dataclass(frozen=True)
class Column:
    """A column: pandas dtype, meaning, and the part of training that fills it.

    loop and losses: training.loop; validation, probe and distance: training.diagnostics.
    """

    name: str
    dtype: str
    meaning: str
    part: Part


COLUMNS = (
    Column("epoch", "int64", "counted from 0; an epoch is one pass over the labelled images (train.epochs_of)", "loop"),
    Column("step", "int64", "optimiser steps at the epoch's end", "loop"),
    Column("learning_rate", "float64", "of the backbone, at the epoch's end", "loop"),
    Column("loss", "float64", "total loss; losses and `kept` are means over the epoch", "losses"),
    Column("loss_supervised", "float64", "on the labelled images", "losses"),
    Column("loss_mix", "float64", "on the mixed or strongly augmented images", "losses"),
    Column("loss_consistency", "float64", "implicit consistency, on the strong view", "losses"),
    Column("mix", "string", "cutmix, classmix or copy_paste; null if none", "loop"),
    Column("teacher", "Int64", "index of the active teacher; null if none", "loop"),
    Column("kept", "float64", "share of the unlabelled pixels whose pseudo-label passes the threshold", "losses"),
    Column("skipped", "int64", "batches skipped (optimizer.bad_batch: skip)", "losses"),
    Column(
        *("val_miou", "float64"),
        *("on the validation images; NaN if not measured in this epoch, as are the columns below", "validation"),
    ),
    Column("val_pixel_accuracy", "float64", "on the validation images", "validation"),
    Column(
        *("val_swallowed", "float64"),
        *("largest share of the other classes' validation pixels that is predicted as one class", "validation"),
    ),
    Column("held_out_miou", "float64", "on the held-out labelled images (partition.NAME.held_out)", "validation"),
    Column(
        "probe_coverage",
        "float64",
        "share of the probe images' pixels whose pseudo-label passes the threshold",
        "probe",
    ),
    Column("probe_accuracy", "float64", "share of these that are correct", "probe"),
    Column("probe_accuracy_all", "float64", "share of all probe pixels that are correct", "probe"),
    Column(
        "distance_active", "float64", "‖teacher − student‖ / ‖student‖ over the parameters; active teacher", "distance"
    ),
    Column("distance_waiting", "float64", "the same for the inactive teacher", "distance"),
    Column(
        "disagreement_active",
        "float64",
        "share of the probe pixels that active teacher and student label differently",
        "probe",
    ),
    Column("disagreement_waiting", "float64", "the same for the inactive teacher", "probe"),
)
NAMES = [column.name for column in COLUMNS]


def names(*parts: Part) -> list[str]:
    """Columns filled by these parts, in table order."""
    return [column.name for column in COLUMNS if column.part in parts]


def blank(*parts: Part) -> Row:
    """NaN in every column of these parts (not measured in this epoch)."""
    return dict.fromkeys(names(*parts), math.nan)


def table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows as a table of COLUMNS; drops keys that are not columns (snapshots)."""
    return pd.DataFrame(list(rows), columns=NAMES).astype({column.name: column.dtype for column in COLUMNS})
