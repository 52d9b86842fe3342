"""Write exported files and compare each with the network."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualteacher.data.pack import Pack
from dualteacher.export import network, onnx_file, parity
from dualteacher.export.network import Size
from dualteacher.export.parity import Parity
from dualteacher.models import named, saved
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Inference
from dualteacher.system import files, paths
from dualteacher.system.errors import UserError

CALIBRATION = 64  # training images for int8


@dataclass(frozen=True)
class Job:
    """A network to export, the description in its weights file, and the images for the check."""

    segmenter: Segmenter
    description: dict[str, Any]
    pack: Pack
    inference: Inference
    argmax: bool
    size: Size | None = None  # height and width, if the files take only one

    @cached_property
    def batches(self) -> list[np.ndarray]:
        return parity.batches(self.pack, self.inference, self.size)

    @property
    def expected(self) -> parity.Runner:
        return parity.torch_runner(network.Logits(self.segmenter))

    @property
    def name(self) -> str:
        """The run as "dataset-partition-method-seed"."""
        return "-".join(str(self.description["cell"][key]) for key in ("dataset", "partition", "method", "seed"))


@dataclass(frozen=True)
class Reduced:
    """A file in lower precision: its agreement with the network, its mIoU, and that of the float32 file."""

    parity: Parity
    miou: float
    miou_float32: float

    def numbers(self) -> dict[str, float | None]:
        """The entry in export.json."""
        return self.parity.numbers() | {"miou": self.miou, "miou_float32": self.miou_float32}


def open_job(weights: Path, pack: Path | None, argmax: bool, size: Size | None = None) -> Job:
    """Load the network and the images for the check (default: the validation images); UserError if they don't fit."""
    segmenter, description = named.load(saved.find(weights))
    try:
        inference = Inference.model_validate(description["inference"])
        place = pack or paths.Dataset(description["cell"]["dataset"]).val
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{weights}: contains no inference settings; train it again") from None
    if pack is None and not place.exists():
        raise UserError(f"{place}: no such file; name images for the check: --pack FILE.arrow, written by `prepare`")
    images = Pack(place)
    if len(images) == 0:
        raise UserError(f"{place}: contains no images to check the export on")
    if segmenter.num_classes != images.num_classes:
        raise UserError(f"{place}: its classes differ from those of {weights}; use images of the same dataset")
    if images.channels != segmenter.channels:
        raise UserError(f"{place}: its images are {images.channels}, but {weights} takes {segmenter.channels}")
    return Job(segmenter, description, images, inference, argmax, size)


def write_onnx(path: Path, job: Job, model: Any) -> Parity:
    """Write the model and compare it with the network.

    With argmax, the logits are compared too, in a temporary file.
    """
    if not job.argmax:
        onnx_file.write(path, model, job.description)
        return parity.compare(job.expected, onnx_file.runner(path), job.batches)
    with tempfile.TemporaryDirectory() as folder:
        logits = Path(folder, "logits.onnx")
        onnx_file.write(logits, model, job.description)
        largest = parity.compare(job.expected, onnx_file.runner(logits), job.batches).largest
    onnx_file.write(path, onnx_file.with_argmax(model), job.description)
    return parity.compare(job.expected, onnx_file.runner(path), job.batches, largest)


def write_program(path: Path, job: Job, program: torch.export.ExportedProgram) -> Parity:
    """Write the torch.export file, read it back and compare it with the network."""
    largest = None
    if job.argmax:
        largest = parity.compare(job.expected, parity.torch_runner(program.module()), job.batches).largest
        program = network.program(job.segmenter, argmax=True, size=job.size)
    with files.atomic(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, temporary)
    module = torch.export.load(path).module()
    return parity.compare(job.expected, parity.torch_runner(module), job.batches, largest)


def write_reduced(path: Path, job: Job, model: Any, precision: str, float32: Path) -> Reduced:
    """Write the model as float16 or int8; compare it with the network and its mIoU with the float32 file's."""
    if precision == "float16":
        reduced = onnx_file.to_float16(model)
    else:
        train = paths.Dataset(job.description["cell"]["dataset"]).train
        if not train.exists():
            raise UserError(f"{train}: no such file; int8 needs training images for calibration: run `prepare`")
        reduced = onnx_file.to_int8(model, parity.calibration(Pack(train), job.inference, CALIBRATION, job.size))
    compared = write_onnx(path, job, reduced)
    before, after = (
        parity.miou(onnx_file.runner(file), job.pack, job.inference, file.name, job.size) for file in (float32, path)
    )
    return Reduced(compared, after, before)
