"""Whole networks on disk: weights that explain themselves, so that whoever loads them needs no other file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from dualteacher import settings
from dualteacher.models import conversion, tensors
from dualteacher.models.segmenter import Segmenter, build
from dualteacher.system import paths
from dualteacher.system.errors import UserError

LATER = {"sync_norm": False}  # keys of `model` that older files lack, with what was meant


def save(path: Path, segmenter: Segmenter, description: Mapping[str, Any]) -> None:
    """Write a network so that `load` needs nothing else; the same network gives the same bytes.

    description: JSON values for whoever reads the file later (classes, crop, dataset, fingerprints, …); what
    the network itself knows is added here: its settings, number of classes, stride and normalisation.
    """
    known = {
        "model": segmenter.settings.model_dump(mode="json"),
        "num_classes": segmenter.num_classes,
        "stride": segmenter.stride,
        "normalisation": {"mean": _values(segmenter.mean), "std": _values(segmenter.std)},
    }
    tensors.write(path, "segmenter", segmenter.state_dict(), {**description, **known})


def _values(buffer: Tensor) -> list[float]:
    """Three numbers as they were written, without what float32 adds."""
    return [round(value, 6) for value in buffer.flatten().tolist()]


def find(given: Path) -> Path:
    """The weights of a run's folder, or the file that was given; UserError for a folder of runs."""
    if not given.is_dir():
        return given
    path = given / paths.STUDENT
    if not path.exists() and (below := sorted(given.rglob(paths.STUDENT))):
        raise UserError(f"{given}: no run, but a folder of {len(below)}; name one, such as {below[0].parent}")
    return path


def load(path: Path, *, drop_path: float = 0.0) -> tuple[Segmenter, dict[str, Any]]:
    """(network in eval mode, description) of a file that `save` made; leaves torch's random state alone.

    UserError in one line for anything else. Pass `drop_path` to go on training; it holds no weights.
    """
    if path.name == paths.STUDENT and not path.exists():
        hint = "a run writes it at its end, `python -m dualteacher status` says how far it is"
        raise UserError(f"{path}: no such file; {hint}")
    state, description = tensors.read(path, "segmenter")
    try:
        model = settings.Model.model_validate(LATER | description["model"])
        num_classes = int(description["num_classes"])
    except (KeyError, ValueError, TypeError, ValidationError):
        raise UserError(f"{path}: its description lacks valid model settings; make the file again") from None
    segmenter = build(model, num_classes, None, drop_path=drop_path, seed=0)
    segmenter.load_state_dict(conversion.fit(state, segmenter.state_dict(), str(path)))
    return segmenter.eval(), description
