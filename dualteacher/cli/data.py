"""Commands about the grid and its data: status, init, check-data, audit, estimate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dualteacher import settings
from dualteacher.cli.options import DatasetOption, check_defined
from dualteacher.cli.running import run_logged
from dualteacher.system import console


def status() -> None:
    """Show the state of every run in the grid: waiting, running (time left), done (mIoU), stopped or failed."""
    from dualteacher.commands import status

    status.run(settings.load())


def init(
    folder: Annotated[Path, typer.Argument(help="the folder with your images and masks")],
    name: Annotated[str | None, typer.Option(help="name of the dataset; default: the folder's name")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a params.yaml that you have edited")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="a run of about a minute, to see all stages work")] = False,
) -> None:
    """Write params.yaml for a folder of your own images and list its assumptions; see docs/own-data.md."""
    from dualteacher.commands import init

    console.start()
    init.run(folder, name, force, quick)


def check_data(
    dataset: Annotated[
        str | None, typer.Option(help="a key of `datasets` in params.yaml; default: all in the grid")
    ] = None,
) -> None:
    """Decode every image and mask; print a table and one line per problem. Exit code 1 if there are errors."""
    datasets = settings.load().grid.dataset if dataset is None else [dataset]
    good = [
        run_logged("dualteacher.commands.check_data", "check_data", name, names={"dataset": name}) for name in datasets
    ]
    if not all(good):
        raise SystemExit(1)


def audit(
    dataset: DatasetOption,
    partition: Annotated[
        str | None, typer.Option(help="a key of `partition` in params.yaml; default: all in the grid")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="the run's seed; default: all in the grid")] = None,
) -> None:
    """Describe a partition's labelled images: list hash, matching official list, overlaps, pixels per class."""
    from dualteacher.commands import audit

    loaded = settings.load()
    check_defined(loaded, {"dataset": dataset} | ({} if partition is None else {"partition": partition}))
    console.start()
    audit.run(loaded, dataset, partition, seed)


def estimate(
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="throughput that your GPU sustains, in TFLOP/s")
    ] = None,
) -> None:
    """Estimate disk space, GPU memory and GPU time for the grid, before anything is downloaded."""
    from dualteacher.commands import estimate

    estimate.run(settings.load(), tflops)


COMMANDS: tuple[Callable[..., None], ...] = (status, init, check_data, audit, estimate)
