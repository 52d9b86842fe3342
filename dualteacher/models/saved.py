"""Whole networks on disk: weights that explain themselves, so that whoever loads them needs no other file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dualteacher import settings
from dualteacher.errors import UserError
from dualteacher.models import conversion, tensors
from dualteacher.models.segmenter import Segmenter, build


def save(path: Path, segmenter: Segmenter, description: Mapping[str, Any]) -> None:
    """Write a network so that `load` needs nothing else; the same network gives the same bytes.

    description: JSON values for whoever reads the file later (classes, crop, dataset, fingerprints, …); the
    model settings and the number of classes are added here.
    """
    known = {"model": segmenter.settings.model_dump(mode="json"), "num_classes": segmenter.num_classes}
    tensors.write(path, "segmenter", segmenter.state_dict(), {**description, **known})


def load(path: Path, *, drop_path: float = 0.0) -> tuple[Segmenter, dict[str, Any]]:
    """(network in eval mode, description) of a file that `save` made; leaves torch's random state alone.

    UserError in one line for anything else. Pass `drop_path` to go on training; it holds no weights.
    """
    state, description = tensors.read(path, "segmenter")
    try:
        model = settings.Model.model_validate(description["model"])
        num_classes = int(description["num_classes"])
    except (KeyError, ValueError, TypeError, ValidationError):
        raise UserError(f"{path}: its description lacks valid model settings; make the file again") from None
    segmenter = build(model, num_classes, None, drop_path=drop_path, seed=0)
    segmenter.load_state_dict(conversion.fit(state, segmenter.state_dict(), str(path)))
    return segmenter.eval(), description
