"""The command line: one command a stage, errors in one line, an exit code for each outcome.

Exit codes: 0 done, 1 a defect (traceback) or a check that found errors, 2 something the user can put right,
75 stopped on request with its state saved (the same command goes on), 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dualteacher import __version__, settings
from dualteacher.machine import launcher, slots
from dualteacher.system import console, heartbeat, paths
from dualteacher.system.errors import RESUME, Interrupted, UserError

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


class By(StrEnum):
    """How `suggest` chooses."""

    uncertainty = "uncertainty"
    disagreement = "disagreement"
    diversity = "diversity"
    mixed = "mixed"
    random = "random"


class Precision(StrEnum):
    """Of an exported file's numbers."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


class Autocast(StrEnum):
    """Of the network's numbers while it predicts."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def _stage(stage: str, *arguments: str | int, known: dict[str, str] | None = None, on_gpus: bool = False) -> Any:
    """Run dualteacher.stages.<stage>.run(settings, *arguments) with a log file; what it returns."""
    return _logged(f"dualteacher.stages.{stage}", stage, *arguments, known=known, on_gpus=on_gpus)


def _logged(
    module: str, name: str, *arguments: str | int, known: dict[str, str] | None = None, on_gpus: bool = False
) -> Any:
    """Run `module`.run(settings, *arguments), with a log file under `name`; what it returns.

    on_gpus: once the GPUs that it needs are free, and in several processes if `runtime.processes` says so.
    """
    loaded = settings.load()
    _check(loaded, known or {})
    log = paths.log(name, *arguments)
    with ExitStack() as gpus:
        with heartbeat.alone(log):
            console.start(log)
            with heartbeat.during(log):
                if on_gpus:
                    gpus.enter_context(slots.taken(loaded.runtime))
                if not (on_gpus and launcher.needed(loaded.runtime.processes)):
                    return importlib.import_module(module).run(loaded, *arguments)
        launcher.run(main, loaded.runtime.processes)  # its first process has the log and the lock from here on


def _check(loaded: settings.Settings, known: dict[str, str]) -> None:
    """UserError where params.yaml does not describe what an option names."""
    described: dict[str, list[str]] = {
        "dataset": list(loaded.datasets),
        "partition": list(loaded.partition),
        "method": list(loaded.methods),
    }
    for kind, value in known.items():
        if value not in described[kind]:
            raise UserError(
                f"--{kind} {value}: params.yaml does not describe it (is it the run's own?);"
                f" described: {', '.join(described[kind])}"
            )


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
    _stage("warmup", dataset, partition, seed, known={"dataset": dataset, "partition": partition}, on_gpus=True)


@app.command()
def train(dataset: DatasetOption, partition: PartitionOption, method: MethodOption, seed: SeedOption) -> None:
    """Train one cell of the grid from its warm-up."""
    known = {"dataset": dataset, "partition": partition, "method": method}
    _stage("train", dataset, partition, method, seed, known=known, on_gpus=True)


@app.command()
def evaluate(dataset: DatasetOption, partition: PartitionOption, method: MethodOption, seed: SeedOption) -> None:
    """Score one cell's student on the validation images."""
    known = {"dataset": dataset, "partition": partition, "method": method}
    _stage("evaluate", dataset, partition, method, seed, known=known, on_gpus=True)


@app.command()
def report() -> None:
    """Tables, figures and the page for all cells of the grid."""
    _stage("report")


@app.command()
def status() -> None:
    """Say of every run of the grid whether it waits, runs (with the time left), is done (mIoU) or has failed."""
    from dualteacher.commands import status

    status.run(settings.load())


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="the folder with your images and masks")],
    name: Annotated[str | None, typer.Option(help="the dataset's name; else the folder's")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a params.yaml that you have edited")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="a run of about a minute, to see all stages work")] = False,
) -> None:
    """Write params.yaml for a folder of your own images, saying what was assumed; see docs/own-data.md."""
    from dualteacher.commands import init

    console.start()
    init.run(folder, name, force, quick)


@app.command()
def check_data(
    dataset: Annotated[
        str | None, typer.Option(help="a key of `datasets` in params.yaml; else all of the grid")
    ] = None,
) -> None:
    """Decode every image and mask once: a table, and one line for each thing that is wrong (then exit code 1)."""
    datasets = settings.load().grid.dataset if dataset is None else [dataset]
    good = [
        _logged("dualteacher.commands.check_data", "check_data", name, known={"dataset": name}) for name in datasets
    ]
    if not all(good):
        raise SystemExit(1)


@app.command()
def audit(
    dataset: DatasetOption,
    partition: Annotated[
        str | None, typer.Option(help="a key of `partition` in params.yaml; else all of the grid")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="the run's seed; else all of the grid")] = None,
) -> None:
    """Say which images a partition labels: its hash, the official list it equals, overlaps, pixels of each class."""
    from dualteacher.commands import audit

    loaded = settings.load()
    _check(loaded, {"dataset": dataset} | ({} if partition is None else {"partition": partition}))
    console.start()
    audit.run(loaded, dataset, partition, seed)


@app.command()
def estimate(
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="what your GPU keeps up, in 10¹² operations a second")
    ] = None,
) -> None:
    """Estimate what the grid will take: disk, GPU memory and GPU time, before anything is downloaded."""
    from dualteacher.commands import estimate

    estimate.run(settings.load(), tflops)


@app.command()
def predict(
    weights: Annotated[Path, typer.Argument(help="student.safetensors, or the folder of a run that holds it")],
    images: Annotated[list[Path], typer.Argument(help="images, folders of images, 'patterns/**/*.jpg' or videos")],
    output: Annotated[Path, typer.Option(help="folder for all that is written")] = Path("predictions"),
    overlays: Annotated[bool, typer.Option(help="pictures to look at: the classes' colours over the image")] = True,
    confidence: Annotated[bool, typer.Option("--confidence", help="maps of the class's probability, 255 = 1")] = False,
    scale: Annotated[
        list[float] | None, typer.Option(min=0.1, max=10, help="see each image at this scale; again for several")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="see each image mirrored too, in twice the time")] = False,
    precision: Annotated[Autocast, typer.Option(help="of the network's numbers")] = Autocast.float32,
    large: Annotated[
        float | None,
        typer.Option(min=0.001, help="predict images of more megapixels in windows; else 4, or 50 if scaled"),
    ] = None,
    window: Annotated[int | None, typer.Option(min=32, help="a window's side; else the weights' or 512")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="between windows; else the weights' or 3/4 window")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="images or windows at once; else the weights'")] = None,
    every: Annotated[int, typer.Option(min=1, help="of a video, take every N-th frame")] = 1,
    redo: Annotated[bool, typer.Option("--redo", help="predict again what is done")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N")] = "auto",
) -> None:
    """Predict images with a trained network: index masks, overlays to look at, and the area of each class.

    In the output folder, NAME being an image's path below the folder that was given:

    \b
      masks/NAME.png       class of each pixel, in the classes' colours; .tif for large TIFF and GeoTIFF images
      overlays/NAME.jpg    the image under these colours
      confidence/NAME.png  with --confidence
      areas.parquet        image, class_index, class_name, pixels, share
      errors.csv           file and reason, for those that could not be predicted

    The same command again goes on where it stopped; what is done with the same weights and options is left as it is.
    Exit code 1: some files could not be predicted. 75: stopped by Ctrl-C, nothing that was finished is lost.

    \b
    Examples:
      python -m dualteacher predict results/runs/sample/all/dual_teacher/seed0 photos
      python -m dualteacher predict student.safetensors 'survey/**/*.tif' --output maps --no-overlays
      python -m dualteacher predict student.safetensors photos --scale 0.75 --scale 1 --scale 1.25 --flip
      python -m dualteacher predict student.safetensors mosaic.tif --window 1024 --confidence
      python -m dualteacher predict student.safetensors drive.mp4 --every 10 --precision bfloat16
    """
    from dualteacher.commands import predict
    from dualteacher.prediction.options import Options

    console.start()
    options = Options(
        device=device, overlays=overlays, confidence=confidence, scales=tuple(scale or [1.0]), flip=flip,
        precision=precision.value, large=large, window=window, stride=stride, batch=batch, every=every, redo=redo,
    )  # fmt: skip
    if not predict.run(weights, images, output, options):
        raise SystemExit(1)


@app.command()
def export(
    weights: Annotated[Path, typer.Argument(help="student.safetensors, or the folder of a run that holds it")],
    output: Annotated[Path | None, typer.Option(help="folder; else results/export/ and the run's name")] = None,
    precision: Annotated[Precision, typer.Option(help="write this ONNX file too, and measure what it costs")] = (
        Precision.float32
    ),
    argmax: Annotated[bool, typer.Option("--argmax", help="give each pixel's class instead of the logits")] = False,
    pack: Annotated[Path | None, typer.Option(help="images for the check; else the dataset's val.arrow")] = None,
) -> None:
    """Write a trained network as ONNX and torch.export files for any batch and size, checked on real images.

    The exit code is 1 if a file gives another class than the network for more than 0.1 % of the pixels.
    """
    from dualteacher.commands import export

    console.start()
    if not export.run(weights, output, pack, precision.value, argmax):
        raise SystemExit(1)


@app.command()
def suggest(
    dataset: DatasetOption,
    partition: PartitionOption,
    method: MethodOption,
    seed: SeedOption,
    count: Annotated[int, typer.Option(min=1, help="so many images")],
    output: Annotated[Path, typer.Option(help="a new folder for the images, their pseudo-masks and COCO polygons")],
    by: Annotated[By, typer.Option(help="mixed: the most uncertain ones, and of these the most diverse")] = By.mixed,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="pixels less sure than this stay open (255) in the pseudo-masks")
    ] = 0.0,
) -> None:
    """Choose the unlabelled images of a trained cell to label next; see docs/labelling.md."""
    from dualteacher.commands import suggest

    loaded = settings.load()
    _check(loaded, {"dataset": dataset, "partition": partition, "method": method})
    console.start()
    suggest.run(loaded, paths.Cell(dataset, partition, method, seed), count, by.value, output, threshold)


@app.command()
def accept(
    suggested: Annotated[Path, typer.Argument(help="the folder that `suggest` wrote, with corrected masks in masks/")],
    coco: Annotated[Path | None, typer.Option(help="take the masks from these COCO annotations instead")] = None,
    unchanged: Annotated[bool, typer.Option("--unchanged", help="take masks that nobody changed too")] = False,
) -> None:
    """Put corrected masks, and their images, among the labelled ones of your own folder; see docs/labelling.md."""
    from dualteacher.commands import accept

    console.start()
    accept.run(settings.load(), suggested, coco, unchanged)


@app.command()
def benchmark(
    model: Annotated[str | None, typer.Option(help="measure this backbone alone, at --classes, --size, …")] = None,
    classes: Annotated[int, typer.Option(min=2, max=255, help="number of classes")] = 150,
    size: Annotated[int, typer.Option(min=32, help="side of the crop, pixels")] = 256,
    labelled: Annotated[int, typer.Option(min=1, help="labelled images a step")] = 4,
    unlabelled: Annotated[int, typer.Option(min=1, help="unlabelled images a step")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="steps of each kind, taken in turns")] = 6,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; else one a core")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="the small configurations only")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="only show where the time of our step goes")] = False,
) -> None:
    """Time our training step, the plain formulation and the bare network in turns; their memory; loader; evaluation.

    Without --model: the configurations of benchmarks/README.md.
    """
    from dualteacher.benchmark import cases, report

    one = [cases.Case(model, classes, size, labelled, unlabelled)] if model else None
    chosen = one or (cases.QUICK if quick else cases.ALL)
    console.start()
    if profile:
        report.profiles(chosen, device, threads, repeats)
    else:
        report.main(chosen, device, threads, repeats, json)


@app.command()
def check_params(path: Annotated[Path, typer.Argument(help="a settings file")] = Path("params.yaml")) -> None:
    """Say whether a settings file is valid, in one line."""
    loaded = settings.load(path)
    print(f"{path}: valid; {len(loaded.grid.rows) * len(loaded.grid.seed)} runs")


@app.command()
def use(preset: Annotated[str, typer.Argument(help="a file's name in presets/, without .yaml")]) -> None:
    """Make a preset the settings: write the complete params.yaml, and keep the old one as params.yaml.bak."""
    from dualteacher.workflow import presets

    presets.use(preset)


@app.command()
def diff_params(
    preset: Annotated[str, typer.Argument(help="a preset's name; `base` if not given")] = "base",
    path: Annotated[Path, typer.Option("--params", help="the settings to compare")] = Path("params.yaml"),
) -> None:
    """Print where params.yaml differs from a preset: one key a line, the preset's value and yours."""
    from dualteacher.workflow import presets

    ours = settings.load(path).model_dump(mode="json")
    theirs = settings.parse(presets.load(preset), preset).model_dump(mode="json")
    for key, mine, other in presets.differences(ours, theirs):
        shown = ["(none)" if value is ... else presets.spell(value) for value in (other, mine)]
        print(f"{key}: {shown[0]} → {shown[1]}")


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
    """Entry point."""
    guarded(lambda: app(standalone_mode=True))


def guarded(program: Callable[[], object]) -> None:
    """Run a program; each expected kind of end becomes one line and an exit code."""
    try:
        program()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Interrupted as stopped:
        if console.is_rank_zero():
            print(f"stopped: {stopped}", file=sys.stderr)
        raise SystemExit(75) from None
    except KeyboardInterrupt:
        print(f"interrupted; {RESUME}", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        import errno

        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        words = "the disk is full; make room and run the same command again" if full else error.strerror
        print(f"error: {words}: {error.filename or 'no file named'}", file=sys.stderr)
        raise SystemExit(2) from None
