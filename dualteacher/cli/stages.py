"""The pipeline's stages, which Snakemake and DVC call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from dualteacher.cli.options import DatasetOption, MethodOption, PartitionOption, SeedOption
from dualteacher.cli.running import run_logged, run_stage
from dualteacher.system.errors import UserError


def download(
    dataset: Annotated[str | None, typer.Option(help="fetch this dataset's archives")] = None,
    weights: Annotated[bool, typer.Option("--weights", help="fetch the backbone's pretrained weights")] = False,
    link: Annotated[str | None, typer.Option(help="list the files behind this entry of `links`, for DVC")] = None,
) -> None:
    """Fetch and verify archives (--dataset) or pretrained weights (--weights).

    The only stage that uses the network. Files already fetched and verified are kept.
    """
    if [dataset is not None, weights, link is not None].count(True) != 1:
        raise UserError("download: give either --dataset NAME or --weights")
    if link is not None:
        run_logged("dualteacher.commands.links", "links", link)
    elif dataset is not None:
        run_stage("download", dataset, names={"dataset": dataset})
    else:
        run_stage("weights")


def prepare(dataset: DatasetOption) -> None:
    """Convert a dataset's archives to train.arrow and val.arrow, with statistics."""
    run_stage("prepare", dataset, names={"dataset": dataset})


def classes(dataset: DatasetOption) -> None:
    """Write a dataset's class names and colours, and its contact sheet."""
    run_stage("classes", dataset, names={"dataset": dataset})


def partition(dataset: DatasetOption, partition: PartitionOption, seed: SeedOption) -> None:
    """Choose which training images keep their masks; write the list and its provenance."""
    run_stage("partition", dataset, partition, seed, names={"dataset": dataset, "partition": partition})


def warmup(dataset: DatasetOption, partition: PartitionOption, seed: SeedOption) -> None:
    """Train the student on the labelled images only; every method starts from the result."""
    run_stage("warmup", dataset, partition, seed, names={"dataset": dataset, "partition": partition}, on_gpus=True)


def train(dataset: DatasetOption, partition: PartitionOption, method: MethodOption, seed: SeedOption) -> None:
    """Train one run of the grid, starting from its warm-up."""
    names = {"dataset": dataset, "partition": partition, "method": method}
    run_stage("train", dataset, partition, method, seed, names=names, on_gpus=True)


def evaluate(dataset: DatasetOption, partition: PartitionOption, method: MethodOption, seed: SeedOption) -> None:
    """Score a run's student on the validation images."""
    names = {"dataset": dataset, "partition": partition, "method": method}
    run_stage("evaluate", dataset, partition, method, seed, names=names, on_gpus=True)


def report() -> None:
    """Write the report on all runs of the grid: tables, figures and an HTML page."""
    run_stage("report")


COMMANDS: tuple[Callable[..., None], ...] = (
    download,
    prepare,
    classes,
    partition,
    warmup,
    train,
    evaluate,
    report,
)
