"""Commands that use a trained network: predict, export, suggest, accept."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dualteacher import settings
from dualteacher.cli.options import (
    DatasetOption,
    MethodOption,
    PartitionOption,
    SeedOption,
    WeightsArgument,
    check_defined,
)
from dualteacher.system import console, paths


class By(StrEnum):
    """Selection strategies of `suggest`."""

    uncertainty = "uncertainty"
    disagreement = "disagreement"
    diversity = "diversity"
    mixed = "mixed"
    random = "random"


class Precision(StrEnum):
    """Number formats of an exported file."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


class Blend(StrEnum):
    """How overlapping windows are averaged."""

    mean = "mean"
    taper = "taper"


class Autocast(StrEnum):
    """Number formats that the network computes in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def predict(
    weights: WeightsArgument,
    images: Annotated[list[Path], typer.Argument(help="images, folders, videos or patterns ('photos/**/*.jpg')")],
    output: Annotated[Path, typer.Option(help="output folder")] = Path("predictions"),
    overlays: Annotated[bool, typer.Option(help="write overlays: the image tinted in the classes' colours")] = True,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="write maps of the predicted class's probability, 255 = 1")
    ] = False,
    scale: Annotated[
        list[float] | None, typer.Option(min=0.1, max=10, help="image scale; repeat to average over several")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="average with the mirrored image; takes twice as long")] = False,
    precision: Annotated[Autocast, typer.Option(help="number format that the network computes in")] = Autocast.float32,
    large: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="use windows for images above this many megapixels; default: 4, or 50 if images are resized"
        ),
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=32, help="side of a window; default: the weights' setting, or 512")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="step between windows; default: the weights' setting, or 3/4 window")
    ] = None,
    blend: Annotated[
        Blend | None, typer.Option(help="how overlapping windows are averaged; default: the weights' setting")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="images or windows per batch; default: the weights' setting")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="predict every N-th frame of a video")] = 1,
    redo: Annotated[bool, typer.Option("--redo", help="predict finished images again")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N")] = "auto",
) -> None:
    """Predict images with a trained network: index masks, overlays, and the area of each class.

    Files in the output folder (NAME: an image's path below the folder given):

    \b
      masks/NAME.png       class of each pixel, with the classes' colours; .tif for large TIFF and GeoTIFF images
      overlays/NAME.jpg    the image tinted in these colours
      confidence/NAME.png  with --confidence
      areas.parquet        image, class_index, class_name, pixels, share
      errors.csv           file and reason for each image that failed

    The same command resumes where it stopped, and skips images finished with the same weights and options.
    Exit code 1: some images failed. 75: stopped by Ctrl-C; finished images are kept.

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
        blend=None if blend is None else blend.value,
    )  # fmt: skip
    if not predict.run(weights, images, output, options):
        raise SystemExit(1)


def export(
    weights: WeightsArgument,
    output: Annotated[Path | None, typer.Option(help="output folder; default: results/export/<run>")] = None,
    precision: Annotated[
        Precision, typer.Option(help="also write an ONNX file in this format, and measure its loss in mIoU")
    ] = Precision.float32,
    argmax: Annotated[bool, typer.Option("--argmax", help="output each pixel's class instead of logits")] = False,
    pack: Annotated[Path | None, typer.Option(help="images for the check; default: the dataset's val.arrow")] = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="HEIGHT WIDTH", help="the only image size that the files take; default: any"),
    ] = None,
) -> None:
    """Export a trained network to ONNX and torch.export, for any batch and image size; check it on real images.

    Exit code 1 if a file and the network disagree on more than 0.1 % of the pixels.
    """
    from dualteacher.commands import export

    console.start()
    if not export.run(weights, output, pack, precision.value, argmax, size):
        raise SystemExit(1)


def suggest(
    dataset: DatasetOption,
    partition: PartitionOption,
    method: MethodOption,
    seed: SeedOption,
    count: Annotated[int, typer.Option(min=1, help="number of images")],
    output: Annotated[Path, typer.Option(help="a new folder for the images, their pseudo-masks and COCO polygons")],
    by: Annotated[By, typer.Option(help="mixed: the most diverse of the most uncertain images")] = By.mixed,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="pixels with lower confidence become 255 (unknown) in pseudo-masks")
    ] = 0.0,
) -> None:
    """Choose unlabelled images to label next, using a trained run; see docs/labelling.md."""
    from dualteacher.commands import suggest

    loaded = settings.load()
    check_defined(loaded, {"dataset": dataset, "partition": partition, "method": method})
    console.start()
    suggest.run(loaded, paths.Cell(dataset, partition, method, seed), count, by.value, output, threshold)


def accept(
    suggested: Annotated[Path, typer.Argument(help="the folder that `suggest` wrote, with corrected masks in masks/")],
    coco: Annotated[Path | None, typer.Option(help="take the masks from this COCO file instead")] = None,
    unchanged: Annotated[bool, typer.Option("--unchanged", help="also take masks that are still unchanged")] = False,
) -> None:
    """Add corrected masks and their images to the labelled images of your own folder; see docs/labelling.md."""
    from dualteacher.commands import accept

    console.start()
    accept.run(settings.load(), suggested, coco, unchanged)


COMMANDS: tuple[Callable[..., None], ...] = (predict, export, suggest, accept)
