"""Networks on disk: one self-describing safetensors file, enough to rebuild the network.

A pretrained backbone that is frozen is not in it (`model.freeze: backbone`): the file names it by its hash, and `load`
takes it from data/weights of the project.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from dualteacher import settings
from dualteacher.data.channels import RGB, Channels
from dualteacher.data.pack import Pack
from dualteacher.models import conversion, tensors
from dualteacher.models.segmenter import Segmenter, build
from dualteacher.system import paths
from dualteacher.system.errors import UserError

# keys of `model` that older files lack, with their former default
LATER = {"sync_norm": False, "freeze": "none", "head_norm": "batch", "recompute": False}
LATER_INFERENCE = {"blend": "mean"}  # likewise, of `inference`


def save(path: Path, segmenter: Segmenter, description: Mapping[str, Any], *, whole: bool = False) -> None:
    """Write a network for `load`. The same network and description give the same bytes.

    whole: with the backbone, even if it is frozen and could be left out.
    description: further JSON values (classes, crop, dataset, fingerprints, …). The network's own settings, number of
    classes, stride, normalisation and its pretrained backbone's source are added here.
    """
    known = {
        "model": segmenter.settings.model_dump(mode="json"),
        "num_classes": segmenter.num_classes,
        "stride": segmenter.stride,
        "normalisation": {"mean": _values(segmenter.mean), "std": _values(segmenter.std)},
        "pretrained": segmenter.pretrained,
    }
    if segmenter.channels != RGB:
        known["channels"] = segmenter.channels.describe()
    state, about = segmenter.state_dict(), {**description, **known}
    about.pop("encoder", None)
    if not whole and names_encoder(segmenter):
        state = segmenter.trained_state()
        about["encoder"] = {"sha256": _hash(segmenter.backbone.state_dict())}
    tensors.write(path, "segmenter", state, about)


def knows(description: Mapping[str, Any], split: str, pack: Pack) -> bool:
    """Whether a network was trained beside just these images and masks; True for older files, which do not say."""
    recorded = description.get("images_sha256", {}).get(split)
    return recorded is None or recorded == pack.content_hash


def names_encoder(segmenter: Segmenter) -> bool:
    """Whether its backbone is as data/weights has it: pretrained, frozen, and for three channels."""
    pretrained = bool(segmenter.pretrained.get("tensors"))
    return pretrained and segmenter.frozen == ("backbone",) and segmenter.channels.count == 3


def _hash(state: Mapping[str, Tensor]) -> str:
    return tensors.content_hash({key: value.detach().cpu().contiguous() for key, value in state.items()}, {})


def _encoder(path: Path, name: str, expected: Mapping[str, Tensor], wanted: str) -> dict[str, Tensor]:
    """The frozen backbone of the file `path`: from data/weights here, or in a folder above the file."""
    place = paths.backbone_weights(name)
    found = next((file for folder in (Path(), *path.resolve().parents) if (file := folder / place).exists()), None)
    if found is None:
        hint = f"{place} of its project is missing: run `python -m dualteacher download --weights` there"
        raise UserError(f"{path}: its frozen backbone is not in it, and {hint}")
    state = conversion.fit(tensors.read(found, "backbone")[0], expected, str(found))
    if (own := _hash(state)) != wanted:
        raise UserError(
            f"{found}: not the backbone that {path} was trained on (sha256 {own[:12]}, not {wanted[:12]}); restore it"
        )
    return {f"backbone.{key}": value for key, value in state.items()}


def _values(buffer: Tensor) -> list[float]:
    """The buffer's numbers, rounded to hide float32 noise."""
    return [round(value, 6) for value in buffer.flatten().tolist()]


def find(given: Path) -> Path:
    """The weights file: `given` itself, or the one in the run folder `given`. UserError for a folder of runs."""
    if not given.is_dir():
        return given
    path = given / paths.STUDENT
    if not path.exists() and (below := sorted(given.rglob(paths.STUDENT))):
        raise UserError(f"{given}: a folder of {len(below)} runs; name one of them, such as {below[0].parent}")
    return path


def load(path: Path, *, drop_path: float = 0.0) -> tuple[Segmenter, dict[str, Any]]:
    """(network in eval mode, description) from a file written by `save`. UserError for any other file.

    drop_path: for further training; it has no weights. Leaves torch's random state unchanged.
    """
    if path.name == paths.STUDENT and not path.exists():
        hint = "a run writes it at its end; check `python -m dualteacher status`"
        raise UserError(f"{path}: no such file; {hint}")
    state, description = tensors.read(path, "segmenter")
    try:
        model = settings.Model.model_validate(LATER | description["model"])
        num_classes = int(description["num_classes"])
        channels = Channels.of(description.get("channels"))
    except (KeyError, ValueError, TypeError, ValidationError):
        raise UserError(f"{path}: its description has no valid model settings; create the file again") from None
    if isinstance(inference := description.get("inference"), dict):
        description["inference"] = LATER_INFERENCE | inference
    segmenter = build(model, num_classes, None, drop_path=drop_path, seed=0, channels=channels)
    if "encoder" in description:
        state |= _encoder(path, model.backbone, segmenter.backbone.state_dict(), description["encoder"]["sha256"])
    segmenter.load_state_dict(conversion.fit(state, segmenter.state_dict(), str(path)))
    segmenter.pretrained = description.get("pretrained", {})  # older files lack it
    return segmenter.eval(), description
