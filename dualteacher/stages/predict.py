"""Predict new images with a trained network (`predict`); all it needs to know is in the weights' file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dualteacher import console, files
from dualteacher import settings as typed
from dualteacher.console import logger
from dualteacher.data import images
from dualteacher.errors import UserError
from dualteacher.evaluation.inference import Predictor, to_tensor
from dualteacher.models import saved
from dualteacher.training.device import pick

WEIGHTS = "student.safetensors"
OPACITY = 0.5


@dataclass(frozen=True)
class Job:
    """An image and the name of its outputs, relative to the output folder and without an ending."""

    image: Path
    name: Path


def run(weights: Path, inputs: Sequence[Path], output: Path, device: str) -> bool:
    """Write output/masks/NAME.png (class index, with the classes' palette) and output/overlays/NAME.jpg.

    NAME is the image's path below the given folder. Masks have the size of the upright image (EXIF). Whether all
    images could be read; those that could not are listed.
    """
    model, description = saved.load(weights / WEIGHTS if weights.is_dir() else weights)
    where = pick(device)
    model.to(where)
    predictor = Predictor(model, typed.Inference.model_validate(description["inference"]))
    palette = np.zeros((256, 3), np.uint8)
    colors = [entry["color"] for entry in description["classes"]]
    palette[: len(colors)] = colors
    jobs = collect(inputs)
    failed: list[str] = []
    for job in console.progress(jobs, "predict", unit="image"):
        try:
            pixels = images.read_image(job.image.read_bytes()).pixels
        except (OSError, images.Unreadable) as error:
            failed.append(f"{job.image}: {error}")
            continue
        mask = predictor(to_tensor([pixels], where))[0].to("cpu", torch.uint8).numpy()
        write(output, job.name, pixels, mask, palette)
    for line in failed:
        logger.error("cannot be read: %s", " ".join(line.split()))
    logger.info("%s: %d of %d images predicted", output, len(jobs) - len(failed), len(jobs))
    return not failed


def collect(inputs: Sequence[Path]) -> list[Job]:
    """The images to predict; UserError if there are none or two would write the same files."""
    jobs: list[Job] = []
    for given in inputs:
        if given.is_dir():
            found = sorted(path for path in given.rglob("*") if images.is_image(path) and path.is_file())
            jobs += [Job(path, path.relative_to(given)) for path in found]
        elif given.exists():
            jobs.append(Job(given, Path(given.name)))
        else:
            raise UserError(f"{given}: no such file or folder")
    if not jobs:
        raise UserError(f"{', '.join(map(str, inputs))}: no images found")
    stems = Counter(job.name.with_suffix("") for job in jobs)
    named = [Job(j.image, j.name.with_suffix("") if stems[j.name.with_suffix("")] == 1 else j.name) for j in jobs]
    name, number = Counter(job.name for job in named).most_common(1)[0]
    if number > 1:
        raise UserError(f"{number} of the images are called {name}; predict them into different folders")
    return named


def write(output: Path, name: Path, pixels: np.ndarray, mask: np.ndarray, palette: np.ndarray) -> None:
    """The mask, and the image (H, W, 3) with the classes' colours laid over it."""
    picture = Image.fromarray(mask)
    picture.putpalette(palette.tobytes())
    over = (OPACITY * palette[mask] + (1 - OPACITY) * pixels).round().astype(np.uint8)
    for path, image in (
        (output / "masks" / f"{name}.png", picture),
        (output / "overlays" / f"{name}.jpg", Image.fromarray(over)),
    ):
        with files.atomic(path) as temporary:
            image.save(temporary, quality=92)
