"""The command line: one command a stage, errors in one line, an exit code for each outcome.

Exit codes: 0 done, 1 a defect (traceback), 2 something the user can put right, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from dualteacher import __version__, console, paths, settings
from dualteacher.errors import UserError

app = typer.Typer(
    name="dualteacher",
    help="Semi-supervised semantic segmentation with Dual Teacher: the stages of the pipeline.\n\n"
    "Snakemake (`snakemake --cores all`) and DVC (`dvc repro`) call these commands in the right order;"
    " each can be run by hand too. All settings are read from params.yaml.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DatasetOption = Annotated[str, typer.Option(help="a key of `datasets` in params.yaml")]
PartitionOption = Annotated[str, typer.Option(help="a key of `partition` in params.yaml")]
MethodOption = Annotated[str, typer.Option(help="a key of `methods` in params.yaml")]
SeedOption = Annotated[int, typer.Option(min=0, help="the run's seed")]


def _stage(stage: str, *arguments: str | int, known: dict[str, str] | None = None) -> None:
    """Run dualteacher.stages.<stage>.run(settings, *arguments) with a log file."""
    loaded = settings.load()
    described: dict[str, list[str]] = {
        "dataset": list(loaded.datasets),
        "partition": list(loaded.partition),
        "method": [name for name, value in loaded.methods if value is not None],
    }
    for kind, value in (known or {}).items():
        if value not in described[kind]:
            raise UserError(
                f"--{kind} {value}: params.yaml does not describe it; described: {', '.join(described[kind])}"
            )
    console.start(paths.log(stage, *arguments))
    module = importlib.import_module(f"dualteacher.stages.{stage}")
    module.run(loaded, *arguments)


@app.command()
def download(
    dataset: Annotated[str | None, typer.Option(help="fetch this dataset's archives")] = None,
    weights: Annotated[bool, typer.Option("--weights", help="fetch the backbone's pretrained weights")] = False,
) -> None:
    """Fetch and verify archives (--dataset) or pretrained weights (--weights).

    The only stage that uses the network; what is there and verified is not fetched again.
    """
    if (dataset is not None) == weights:
        raise UserError("download: give either --dataset NAME or --weights")
    if dataset is not None:
        _stage("download", dataset, known={"dataset": dataset})
    else:
        _stage("weights")


@app.command()
def prepare(dataset: DatasetOption) -> None:
    """Cut and encode the archives into train.arrow and val.arrow, with class table and statistics."""
    _stage("prepare", dataset, known={"dataset": dataset})


@app.command()
def partition(dataset: DatasetOption, partition: PartitionOption, seed: SeedOption) -> None:
    """Draw which training images keep their masks; write the list and where it comes from."""
    _stage("partition", dataset, partition, seed, known={"dataset": dataset, "partition": partition})


@app.command()
def warmup(dataset: DatasetOption, partition: PartitionOption, seed: SeedOption) -> None:
    """Train the student on the labelled images alone: the start that all methods share."""
    _stage("warmup", dataset, partition, seed, known={"dataset": dataset, "partition": partition})


@app.command()
def train(dataset: DatasetOption, partition: PartitionOption, method: MethodOption, seed: SeedOption) -> None:
    """Train one cell of the grid from its warm-up."""
    known = {"dataset": dataset, "partition": partition, "method": method}
    _stage("train", dataset, partition, method, seed, known=known)


@app.command()
def evaluate(dataset: DatasetOption, partition: PartitionOption, method: MethodOption, seed: SeedOption) -> None:
    """Score one cell's student on the validation images."""
    known = {"dataset": dataset, "partition": partition, "method": method}
    _stage("evaluate", dataset, partition, method, seed, known=known)


@app.command()
def report() -> None:
    """Tables, figures and the page for all cells of the grid."""
    _stage("report")


@app.command()
def check_params(path: Annotated[Path, typer.Argument(help="a settings file")] = Path("params.yaml")) -> None:
    """Say whether a settings file is valid, in one line."""
    loaded = settings.load(path)
    grid = loaded.grid
    cells = len(grid.dataset) * len(grid.partition) * len(grid.method) * len(grid.seed)
    print(f"{path}: valid; {cells} runs")


def _version(value: bool) -> None:
    if value:
        print(f"dualteacher {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point; turns the two expected kinds of end into one line and an exit code."""
    try:
        app(standalone_mode=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        import errno

        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        print(f"error: {error.strerror}: {error.filename or 'no file named'}", file=sys.stderr)
        raise SystemExit(2) from None
