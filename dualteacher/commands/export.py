"""Export: a trained network as ONNX and torch.export files, checked against the network on real images."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualteacher import settings as typed
from dualteacher.data.pack import Pack
from dualteacher.export import network, onnx_file, parity
from dualteacher.export.parity import Parity
from dualteacher.models import saved
from dualteacher.models.segmenter import Segmenter
from dualteacher.system import files, paths
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError

CALIBRATION = 64  # training images for int8


@dataclass(frozen=True)
class Export:
    """The network, what its file says of it, and the images that the exported files are checked on."""

    segmenter: Segmenter
    description: dict[str, Any]
    pack: Pack
    inference: typed.Inference
    argmax: bool

    @cached_property
    def batches(self) -> list[np.ndarray]:
        return parity.batches(self.pack, self.inference)

    @property
    def expected(self) -> parity.Runner:
        return parity.torch_runner(network.Logits(self.segmenter))


def run(weights: Path, output: Path | None, pack: Path | None, precision: str, argmax: bool) -> bool:
    """Write model.onnx and model.pt2, and with another precision than float32 model-PRECISION.onnx too.

    weights: a file that training wrote, or the folder of a run. pack: images for the check; else the
    validation images of the weights' dataset. What was measured is told, and written into export.json.
    False if a float32 file gives another class than the network for more than 0.1 % of the pixels; it is
    removed.
    """
    job = open_job(weights, pack, argmax)
    cell = job.description["cell"]
    folder = output or paths.EXPORTS / "-".join(str(cell[key]) for key in ("dataset", "partition", "method", "seed"))
    logger.info("%s: converting the network", weights)
    program = network.program(job.segmenter)
    model = onnx_file.from_program(program)
    onnx, torch_file = folder / "model.onnx", folder / "model.pt2"
    found = {onnx: write_onnx(onnx, job, model), torch_file: write_program(torch_file, job, program)}
    for path, compared in found.items():
        if compared.good:
            logger.info("%s: %s", path, compared)
        else:
            path.unlink()
            logger.error("%s: removed, since it is not what the network is: %s", path, compared)
    measured: dict[str, Any] = {path.name: compared.numbers() for path, compared in found.items()}
    good = all(compared.good for compared in found.values())
    if good and precision != "float32":
        path = folder / f"model-{precision}.onnx"
        measured[path.name] = write_reduced(path, job, model, precision, onnx)
    files.write_json(folder / "export.json", {"weights": str(weights), "pack": str(job.pack.path), "files": measured})
    return good


def open_job(weights: Path, pack: Path | None, argmax: bool) -> Export:
    """Load and check what is needed; UserError in one line."""
    segmenter, description = saved.load(saved.find(weights))
    try:
        inference = typed.Inference.model_validate(description["inference"])
        names = [entry["name"] for entry in description["classes"]]
        place = pack or paths.Dataset(description["cell"]["dataset"]).val
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{weights}: does not say how its images are prepared; train it again") from None
    if pack is None and not place.exists():
        raise UserError(f"{place}: no such file: name images to check the export on, --pack FILE.arrow of `prepare`")
    images = Pack(place)
    if len(images) == 0:
        raise UserError(f"{place}: holds no image to check the export on")
    if names != [info.name for info in images.classes]:
        raise UserError(f"{place}: its classes are not those of {weights}; give images of the same dataset")
    return Export(segmenter, description, images, inference, argmax)


def write_onnx(path: Path, job: Export, model: Any) -> Parity:
    """Write the model and compare it with the network; with argmax the logits are looked at on the way."""
    if not job.argmax:
        onnx_file.write(path, model, job.description)
        return parity.compare(job.expected, onnx_file.runner(path), job.batches)
    with tempfile.TemporaryDirectory() as folder:
        logits = Path(folder, "logits.onnx")
        onnx_file.write(logits, model, job.description)
        largest = parity.compare(job.expected, onnx_file.runner(logits), job.batches).largest
    onnx_file.write(path, onnx_file.with_argmax(model), job.description)
    return parity.compare(job.expected, onnx_file.runner(path), job.batches, largest)


def write_program(path: Path, job: Export, program: torch.export.ExportedProgram) -> Parity:
    """Write the torch.export file and compare what is read back with the network."""
    largest = None
    if job.argmax:
        largest = parity.compare(job.expected, parity.torch_runner(program.module()), job.batches).largest
        program = network.program(job.segmenter, argmax=True)
    with files.atomic(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, temporary)
    module = torch.export.load(path).module()
    return parity.compare(job.expected, parity.torch_runner(module), job.batches, largest)


def write_reduced(path: Path, job: Export, model: Any, precision: str, float32: Path) -> dict[str, float | None]:
    """Write the model in fewer bits and measure what that costs, against the float32 file."""
    if precision == "float16":
        reduced = onnx_file.to_float16(model)
    else:
        train = paths.Dataset(job.description["cell"]["dataset"]).train
        if not train.exists():
            raise UserError(f"{train}: no such file: int8 takes the ranges of its numbers from training images")
        reduced = onnx_file.to_int8(model, parity.calibration(Pack(train), job.inference, CALIBRATION))
    compared = write_onnx(path, job, reduced)
    before, after = (
        parity.miou(onnx_file.runner(file), job.pack, job.inference, file.name) for file in (float32, path)
    )
    points = 100 * (after - before)
    logger.info("%s: mIoU %.4f, float32 %.4f: %+.2f points; %s", path, after, before, points, compared)
    return compared.numbers() | {"miou": after, "miou_float32": before}
