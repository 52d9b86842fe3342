"""The contract of each stage: its inputs, outputs and parameters.

dvc.yaml is generated from the contracts and the Snakemake rules are tested against them. A run's parameter fingerprint
covers the parameters listed here. Paths come from system/paths.py; `{dataset}` is a wildcard, `{model.backbone}` the
value of a parameter.

New names and colours of classes rerun no training. No output of a stage before `evaluate` depends on them except those
of `classes`. DVC reruns `download` and `prepare`, since it cannot track parts of a list, and sees that their outputs
are the same; Snakemake compares these stages' parameters without them (engines.without_looks).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dualteacher.system import paths

DATA = paths.Dataset("{dataset}")
SPLIT = paths.Partition("{dataset}", "{partition}", "{seed}")  # type: ignore[arg-type]
CELL = paths.Cell("{dataset}", "{partition}", "{method}", "{seed}")  # type: ignore[arg-type]
WARMUP = CELL.warmup
BACKBONE = paths.backbone_weights("{model.backbone}")


@dataclass(frozen=True)
class Contract:
    """One stage, run as `python -m dualteacher COMMAND` with an option per wildcard."""

    stage: str
    command: str
    wildcards: tuple[str, ...]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    params: tuple[str, ...]  # dotted keys of params.yaml

    @property
    def sections(self) -> tuple[str, ...]:
        """The parameters that are whole sections of params.yaml."""
        return tuple(key for key in self.params if "." not in key)


CONTRACTS = (
    Contract(
        "download",
        "download",
        ("dataset",),
        inputs=(),
        outputs=(DATA.manifest,),
        params=("datasets.{dataset}",),
    ),
    Contract(
        "weights",
        "download --weights",
        (),
        inputs=(),
        outputs=(BACKBONE,),
        params=("model.backbone", "model.weights"),
    ),
    Contract(
        "prepare",
        "prepare",
        ("dataset",),
        inputs=(DATA.manifest,),
        outputs=(DATA.train, DATA.val, DATA.stats, DATA.findings),
        params=("datasets.{dataset}",),
    ),
    Contract(
        "classes",
        "classes",
        ("dataset",),
        inputs=(DATA.train, DATA.val, DATA.stats),
        outputs=(DATA.classes, DATA.contact_sheet),
        params=("datasets.{dataset}",),
    ),
    Contract(
        "partition",
        "partition",
        ("dataset", "partition", "seed"),
        inputs=(DATA.train, DATA.stats),
        outputs=(SPLIT.table, SPLIT.provenance),
        params=("partition.{partition}",),
    ),
    Contract(
        "warmup",
        "warmup",
        ("dataset", "partition", "seed"),
        inputs=(DATA.train, DATA.val, SPLIT.table, BACKBONE),
        outputs=(WARMUP.student, WARMUP.history, WARMUP.cost, WARMUP.alarms),
        params=(
            "model",
            "batch",
            "augment",
            "sampling",
            "loss",
            "optimizer",
            "warmup",
            "inference",
            "runtime.precision",
        ),
    ),
    Contract(
        "train",
        "train",
        ("dataset", "partition", "method", "seed"),
        inputs=(DATA.train, DATA.val, SPLIT.table, WARMUP.student, BACKBONE),  # read if it is frozen
        outputs=(CELL.student, CELL.history, CELL.cost, CELL.alarms, CELL.calibration, CELL.snapshots),
        params=(
            *("model", "batch", "augment", "sampling", "mixing", "loss", "optimizer", "train", "methods.{method}"),
            *("inference", "evaluate.weights", "runtime.precision"),
        ),
    ),
    Contract(
        "evaluate",
        "evaluate",
        ("dataset", "partition", "method", "seed"),
        inputs=(DATA.val, DATA.classes, SPLIT.table, CELL.student, CELL.history, BACKBONE),  # read if it is frozen
        outputs=(
            *(CELL.metrics, CELL.per_class, CELL.per_image, CELL.confusion, CELL.model_card, CELL.gallery),
            CELL.pictures,
            CELL.classes,
        ),
        params=("inference", "evaluate", "runtime.precision"),
    ),
    Contract(
        "report",
        "report",
        (),
        inputs=(  # of every run of the grid
            *(DATA.val, DATA.classes, SPLIT.provenance, CELL.history, CELL.cost, CELL.metrics, CELL.per_class),
            *(CELL.per_image, CELL.alarms, CELL.calibration, CELL.snapshots, CELL.confusion, CELL.gallery),
            CELL.pictures,
        ),
        outputs=(  # plus the figures listed in reporting/figure_names.py
            *(paths.REPORT / f"table.{suffix}" for suffix in ("csv", "md", "tex", "parquet")),
            paths.REPORT / "table_seeds.parquet",
            *(
                paths.REPORT / f"{name}.csv"
                for name in ("curves", "comparisons", "class_gains", "calibration", "hardest", "alarms")
            ),
            paths.REPORT / "index.html",
            paths.SUMMARY,
        ),
        params=("grid", "report"),
    ),
)
BY_STAGE = {contract.stage: contract for contract in CONTRACTS}
STAGES = tuple(BY_STAGE)
