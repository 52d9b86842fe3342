"""All paths of the project, relative to its folder, in which every command runs.

The rules in workflow/ and dvc.yaml repeat them; a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DATA = Path("data")
RUNS = Path("results/runs")
STUDENT = "student.safetensors"  # the trained network of a run
REPORT = Path("results/report")
FIGURES = REPORT / "figures"
SUMMARY = Path("results/summary.json")
LOGS = Path("logs")
OWN_DATA_LIST = Path(".snakemake/own_data.txt")  # list of the files that Snakemake watches; see engines.watch
EXPORTS = Path("results/export")
CHECKPOINTS = Path(".checkpoints")  # undeclared on purpose: both engines would delete or cache them


@dataclass(frozen=True)
class Dataset:
    """Files of one dataset."""

    name: str

    @property
    def folder(self) -> Path:
        return DATA / self.name

    @property
    def raw(self) -> Path:
        """Folder of the verified archives; only the manifest in it is a declared output."""
        return self.folder / "raw"

    @property
    def manifest(self) -> Path:
        return self.raw / "manifest.json"

    @property
    def lists(self) -> Path:
        """Folder of the official partitions' lists, fetched with the archives."""
        return self.raw / "lists"

    @property
    def train(self) -> Path:
        return self.folder / "train.arrow"

    @property
    def val(self) -> Path:
        return self.folder / "val.arrow"

    @property
    def classes(self) -> Path:
        return self.folder / "classes.json"

    @property
    def stats(self) -> Path:
        return self.folder / "stats.parquet"

    @property
    def findings(self) -> Path:
        """Findings of the checks and the images that were skipped."""
        return self.folder / "findings.json"

    @property
    def contact_sheet(self) -> Path:
        return self.folder / "contact_sheet.png"

    @property
    def checked_sheet(self) -> Path:
        """The contact sheet of `check-data`, before anything is prepared; not an output of the pipeline."""
        return self.folder / "check-data.png"


def backbone_weights(backbone: str) -> Path:
    """Pretrained backbone weights in our own key names, written by the download stage."""
    return DATA / "weights" / f"{backbone}.safetensors"


def class_table_of(weights: Path) -> Path:
    """Names and colours of the classes that a weights file tells apart: student.classes.json."""
    return weights.with_suffix(".classes.json")


@dataclass(frozen=True)
class Partition:
    """Files of a partition into labelled and unlabelled images, for one seed."""

    dataset: str
    partition: str
    seed: int

    @property
    def table(self) -> Path:
        return DATA / self.dataset / "partitions" / self.partition / f"seed{self.seed}.parquet"

    @property
    def provenance(self) -> Path:
        return self.table.with_name(f"seed{self.seed}.provenance.json")


@dataclass(frozen=True)
class Cell:
    """One run of the grid; method 'warmup' is the supervised warm-up that all methods share."""

    dataset: str
    partition: str
    method: str
    seed: int

    @property
    def folder(self) -> Path:
        return RUNS / self.dataset / self.partition / self.method / f"seed{self.seed}"

    @property
    def warmup(self) -> Cell:
        return Cell(self.dataset, self.partition, "warmup", self.seed)

    @property
    def student(self) -> Path:
        return self.folder / STUDENT

    @property
    def classes(self) -> Path:
        """Names and colours of the student's classes."""
        return class_table_of(self.student)

    @property
    def committee(self) -> Path:
        """Folder of the networks trained beside the student, for `suggest`; not an output of the pipeline."""
        return CHECKPOINTS / "committees" / "-".join(self.folder.parts[2:])

    @property
    def history(self) -> Path:
        return self.folder / "history.parquet"

    @property
    def cost(self) -> Path:
        """Wall time, images/s and memory; separate, since all other files are reproducible to the byte."""
        return self.folder / "cost.json"

    @property
    def alarms(self) -> Path:
        """Signs of collapse during training."""
        return self.folder / "alarms.json"

    @property
    def calibration(self) -> Path:
        """Number and accuracy of pseudo-labels by confidence."""
        return self.folder / "calibration.parquet"

    @property
    def snapshots(self) -> Path:
        """Predictions of a few validation images at each validation."""
        return self.folder / "snapshots.parquet"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def per_class(self) -> Path:
        return self.folder / "per_class.parquet"

    @property
    def per_image(self) -> Path:
        """Scores of each validation image."""
        return self.folder / "per_image.parquet"

    @property
    def confusion(self) -> Path:
        return self.folder / "confusion.parquet"

    @property
    def model_card(self) -> Path:
        return self.folder / "model_card.md"

    @property
    def gallery(self) -> Path:
        return self.folder / "gallery.png"

    @property
    def pictures(self) -> Path:
        """The gallery's images and masks one by one, for the report's page."""
        return self.folder / "gallery.parquet"


def log(stage: str, *parts: str | int) -> Path:
    """The log of a job, e.g. logs/train/bluemarble-eighth-dual_teacher-0.log."""
    return LOGS / stage / ("-".join(map(str, parts)) + ".log" if parts else f"{stage}.log")
