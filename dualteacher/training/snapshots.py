"""Snapshots: the student's predictions for a few fixed validation images at each validation.

The class maps are small (sides of at most SIDE pixels) and stored in the history's rows, so checkpoints include them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from dualteacher.data.formats.images import thin
from dualteacher.data.pack import Pack
from dualteacher.inference.predictor import Predictor, to_tensor
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Inference
from dualteacher.training.history import SNAPSHOTS

COUNT = 2  # number of images
SIDE = 128  # longest side of a stored class map, pixels
COLUMNS = ("epoch", "step", "image_id", "prediction")


def snapshot_images(val: Pack) -> list[int]:
    """COUNT images, evenly spaced among those with a mask."""
    with_mask = [i for i in range(len(val)) if val.has_mask(i)]
    places = {len(with_mask) * (2 * k + 1) // (2 * COUNT) for k in range(COUNT)} if with_mask else set()
    return [with_mask[place] for place in sorted(places)]


def recorder(
    student: Segmenter, val: Pack, inference: Inference, device: torch.device
) -> Callable[[], dict[str, list[Tensor]]]:
    """Return a function that predicts the snapshot images and returns the class maps under SNAPSHOTS."""
    images, predictor = snapshot_images(val), Predictor(student, inference)

    def record() -> dict[str, list[Tensor]]:
        return {SNAPSHOTS: [thinned(predictor(to_tensor([val.image(i)], device))[0]) for i in images]}

    return record


def thinned(labels: Tensor) -> Tensor:
    """(H, W) classes → uint8 on the CPU: every k-th pixel, so that no side exceeds SIDE."""
    return labels[thin(labels.shape, SIDE)].to("cpu", torch.uint8, copy=True)


def table(history: Iterable[Mapping[str, Any]], ids: Sequence[str]) -> pd.DataFrame:
    """A table of COLUMNS, one row per image and validation; predictions are grey PNGs of class indices."""
    rows = [
        (row["epoch"], row["step"], name, _png(labels.numpy()))
        for row in history
        for name, labels in zip(ids, row.get(SNAPSHOTS, ()), strict=False)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"epoch": "int64", "step": "int64"})


def _png(labels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
