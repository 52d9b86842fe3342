"""A trained network in Python: load, predict, save, export."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import numpy as np
from PIL import Image

from dualteacher.commands import export
from dualteacher.data.channels import Channels
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.formats import images
from dualteacher.inference.predictor import Predictor
from dualteacher.machine.device import pick
from dualteacher.models import named, saved
from dualteacher.models.segmenter import Segmenter
from dualteacher.prediction import options as how
from dualteacher.prediction import reading
from dualteacher.prediction.bands import Bands
from dualteacher.prediction.inputs import Input
from dualteacher.prediction.large import Band
from dualteacher.prediction.options import Options
from dualteacher.prediction.outputs import Png
from dualteacher.prediction.reading import Decoded, Failure, Opened
from dualteacher.system import console, files, parallel, paths
from dualteacher.system.errors import UserError
from dualteacher.system.os_errors import broken_link

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # of Pillow, 8 bits a channel
PRECISIONS = ("float32", "bfloat16", "float16")
Picture = np.ndarray | Image.Image | str | os.PathLike[str]  # pixels (H, W, 3) or (H, W) uint8, or an image file


class PredictOptions(TypedDict, total=False):
    """Options of `Model.predict`. None: as the weights say."""

    probabilities: bool  # also return the probabilities of all classes
    scales: Sequence[float]  # of the image, to average over
    flip: bool  # average with the mirrored image
    precision: str  # float32, bfloat16, float16
    large: float | None  # megapixels; larger images are predicted in windows
    window: int | None  # side, pixels
    stride: int | None  # pixels
    blend: str | None  # mean or taper: how overlapping windows are averaged
    batch: int | None  # images or windows


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network sees in one image, at the image's own size."""

    mask: np.ndarray  # (H, W) uint8, indices into `Model.classes`
    confidence: np.ndarray  # (H, W) float32, probability of the mask's class
    probabilities: np.ndarray | None = field(repr=False)  # (C, H, W) float32; None unless asked for
    palette: np.ndarray = field(repr=False)  # (256, 3) uint8

    @property
    def colours(self) -> np.ndarray:
        """The mask in the classes' colours, (H, W, 3) uint8."""
        return self.palette[self.mask]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the mask as an indexed PNG, the same bytes as `python -m dualteacher predict` writes."""
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UserError(f"{path}: masks are saved as .png")
        with files.atomic(path) as temporary, Png(temporary, self.palette) as writer:
            writer.write(self.mask)
        return path

    def _repr_png_(self) -> bytes:
        """The coloured mask, shown by a notebook."""
        return images.png(self.colours)


class Model:
    """A trained network with its description."""

    def __init__(self, path: Path, network: Segmenter, description: dict[str, Any]) -> None:
        """path: the weights file that `network` and `description` were read from."""
        how.inference(path, description, Options())  # UserError if the file cannot predict
        self.path, self.network, self.description = path.absolute(), network, description

    def __repr__(self) -> str:
        settings = self.network.settings
        names = ", ".join(entry.name for entry in self.classes)
        return (
            f"<dualteacher.Model {settings.architecture} on {settings.backbone}, {len(self.classes)} classes: {names}>"
        )

    @property
    def classes(self) -> list[ClassInfo]:
        """Name and colour of each class, in the order of the mask's indices."""
        return [ClassInfo(entry["name"], (*entry["color"],)) for entry in self.description["classes"]]

    @property
    def metrics(self) -> dict[str, Any] | None:
        """The run's scores on its validation images (`miou`, `pixel_accuracy`, …); None without an evaluated run."""
        try:
            found: dict[str, Any] = json.loads(self.path.with_name("metrics.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a sequence too
        self, pictures: Picture, **options: Unpack[PredictOptions]
    ) -> Prediction: ...
    @overload
    def predict(self, pictures: Sequence[Picture], **options: Unpack[PredictOptions]) -> list[Prediction]: ...
    def predict(
        self, pictures: Picture | Sequence[Picture], **options: Unpack[PredictOptions]
    ) -> Prediction | list[Prediction]:
        """Predict one image, or a list of images; UserError if one cannot be read.

        pictures: file, Pillow image, or array (H, W, 3) RGB or (H, W) grey, uint8; for weights with chosen bands or
        range (docs/own-data.md), values (H, W, bands) as the training images' files store them. options: see
        PredictOptions; those of `python -m dualteacher predict`, and so are the masks.
        """
        probabilities = options.pop("probabilities", False)
        options["scales"] = tuple(options.get("scales", (1.0,)))
        chosen = _checked(options)
        inference = how.inference(self.path, self.description, chosen)
        predictor = Predictor(self.network, inference, chosen.scales, chosen.flip)
        bands = Bands(predictor, chosen, confidence=True, probabilities=probabilities)
        alone = isinstance(pictures, np.ndarray | Image.Image | str | os.PathLike)
        given: Sequence[Picture] = [pictures] if alone else pictures  # type: ignore[list-item, assignment]
        names = {f"images[{number}]": number for number in range(len(given))}
        found: list[Prediction | None] = [None] * len(given)
        palette = how.palette(self.description["classes"])
        results = _bands(bands, map(partial(_job, large=bands.large, channels=self.network.channels), names, given))
        for image, parts in console.progress(results, "predict", len(given), "image"):
            found[names[image.name]] = _joined(parts, palette)
        predictions = [one for one in found if one is not None]
        return predictions[0] if alone else predictions

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the weights and all that `load` needs into one file; into a folder: as student.safetensors."""
        path = Path(path)
        path = path / paths.STUDENT if path.is_dir() else path
        own = {key: value for key, value in self.description.items() if key not in ("format", "kind")}
        saved.save(path, self.network, own, whole=True)
        return path

    def export(
        self,
        folder: str | os.PathLike[str],
        *,
        precision: str = "float32",
        argmax: bool = False,
        pack: str | os.PathLike[str] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Path:
        """Write model.onnx, model.pt2 and export.json, checked on real images, as `python -m dualteacher export` does.

        pack: images for the check; default: the validation images of the model's project. size: the only height and
        width that the files take. Returns the folder.
        """
        folder = Path(folder).absolute()
        checked_on = None if pack is None else Path(pack).absolute()
        with contextlib.chdir(self.project or Path.cwd()):
            if not export.run(self.path, folder, checked_on, precision, argmax, size):
                raise UserError(f"{folder}: the exported network disagrees with this one; see export.json there")
        return folder

    @property
    def project(self) -> Path | None:
        """The project's folder; None for a weights file outside results/runs."""
        return next((p for p in self.path.parents if self.path.is_relative_to(p / paths.RUNS)), None)


def load(path: str | os.PathLike[str], device: str = "auto") -> Model:
    """A trained network from a run's folder or a weights file. UserError for any other file.

    device: auto (CUDA if available), cpu, cuda, cuda:1, mps.
    """
    file = saved.find(Path(path))
    network, description = named.load(file)
    return Model(file, network.to(pick(device)), description)


def _checked(options: PredictOptions) -> Options:
    """The options, with the limits that the command line sets; UserError beyond them."""
    chosen = Options(**options)  # type: ignore[arg-type, misc]
    if chosen.precision not in PRECISIONS:
        raise UserError(f"precision = {chosen.precision!r}: one of {', '.join(PRECISIONS)}")
    if not chosen.scales or not all(0.1 <= scale <= 10 for scale in chosen.scales):
        raise UserError(f"scales = {chosen.scales}: one or more numbers from 0.1 to 10")
    if chosen.blend not in (None, "mean", "taper"):
        raise UserError(f"blend = {chosen.blend!r}: mean or taper")
    for name, least in (("large", 0.001), ("window", 32), ("stride", 1), ("batch", 1)):
        value = getattr(chosen, name)
        if value is not None and value < least:
            raise UserError(f"{name} = {value}: at least {least}")
    return chosen


def _job(name: str, picture: Picture, large: int, channels: Channels) -> Callable[[], Opened | Failure]:
    """Opens a picture, in another thread if it is a file."""
    if isinstance(picture, str | os.PathLike):
        file = Path(picture)
        if not file.is_file():
            what = "a folder; give a list of its files" if file.is_dir() else "no such file"
            raise UserError(broken_link(file) or f"{file}: {what}")
        return partial(reading.read, Input(file, name), large, channels)
    values = pixels_of(picture, name) if channels.ordinary else _stored(picture, name)
    return partial(Opened, name, Path(name), [], Decoded(values, channels), None)


def _stored(picture: np.ndarray | Image.Image, name: str) -> np.ndarray:
    """Values (H, W, bands) for weights with chosen bands or range, as a file would store them."""
    values = np.asarray(picture)
    if values.ndim not in (2, 3) or values.size == 0 or values.dtype.kind not in "uif":
        raise UserError(
            f"{name}: an array of {values.dtype} {values.shape}; expected numbers (height, width, bands) as the images'"
            " files store them"
        )
    return values if values.ndim == 3 else values[..., None]


def pixels_of(picture: np.ndarray | Image.Image, name: str) -> np.ndarray:
    """(H, W, 3) uint8 of an array or a Pillow image; UserError for other values. name: of the argument."""
    if isinstance(picture, Image.Image):
        if picture.mode not in MODES:
            raise UserError(f"{name}: a Pillow image of mode {picture.mode}; give its file, or convert it to RGB")
        picture = picture.convert("RGB")
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise UserError(
            f"{name}: an array of {pixels.dtype} {pixels.shape}; expected uint8, (height, width, 3) RGB or"
            " (height, width) grey"
        )
    if pixels.size == 0:
        raise UserError(f"{name}: an array without pixels {pixels.shape}")
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def _bands(bands: Bands, jobs: Iterable[Callable[[], Opened | Failure]]) -> Iterator[tuple[Opened, list[Band]]]:
    """Each image with its bands, in the order in which batches of equal size fill up; UserError for a failure."""
    opened = parallel.ordered(jobs, min(reading.READERS, parallel.cores()))
    for batch in reading.batches(opened, bands.inference.batch, bands.large):
        if isinstance(batch, Failure):
            raise UserError(f"{batch.file}: cannot be predicted: {batch.reason}")
        try:
            if batch[0].pixels > bands.large:
                yield batch[0], list(bands.of_large(batch[0]))
            else:
                yield from ((image, [band]) for image, band in zip(batch, bands.of_batch(batch)(), strict=True))
        except images.Unreadable as error:
            raise UserError(f"{batch[0].file}: cannot be predicted: {error}") from None


def _joined(parts: Sequence[Band], palette: np.ndarray) -> Prediction:
    """One prediction from an image's bands."""
    confidence = [part.confidence for part in parts if part.confidence is not None]
    every = [part.probabilities for part in parts if part.probabilities is not None]
    return Prediction(
        mask=np.concatenate([part.labels for part in parts]),
        confidence=np.concatenate(confidence),
        probabilities=np.concatenate(every, axis=1) if every else None,
        palette=palette,
    )
