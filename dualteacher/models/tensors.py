"""Tensors on disk: our own self-describing safetensors files, and the checkpoints that others give us.

Our files hold one metadata entry, `dualteacher`: JSON with the format's version, the file's kind and all
that a reader must know. One entry, because the library does not keep the order of several; so equal content
is equal bytes. The JSON holds a hash of the rest and of the tensors, so a flipped bit is noticed.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dualteacher import settings
from dualteacher.system import files
from dualteacher.system.errors import UserError

FORMAT = 1
ENTRY = "dualteacher"
WHAT = {"backbone": "prepared backbone weights", "segmenter": "a trained network"}


def write(path: Path, kind: str, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write tensors and their description, atomically; ValueError if the description has a reserved key."""
    if clash := {"format", "kind", "sha256"} & description.keys():
        raise ValueError(f"reserved: {clash}")
    plain = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    whole = {"format": FORMAT, "kind": kind, **description}
    text = json.dumps(whole | {"sha256": content_hash(plain, whole)}, sort_keys=True, allow_nan=False)
    # Not save_file: it makes files that nobody but their owner can read, whatever the umask says.
    files.write_bytes(path, safetensors.torch.save(plain, metadata={ENTRY: text}))


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, description) of a file that `write` made; UserError in one line for anything else."""
    state, metadata = _read_safetensors(path)
    if ENTRY not in metadata:
        raise UserError(f"{path}: a safetensors file, but not written by this program: expected {WHAT[kind]}")
    try:
        description = json.loads(metadata[ENTRY])
        version, found = description["format"], description["kind"]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: its description cannot be read; make the file again") from None
    if version != FORMAT:
        raise UserError(f"{path}: file format {version!r}, this version of the program reads {FORMAT}; make it again")
    if found != kind:
        raise UserError(f"{path}: holds {WHAT.get(found, repr(found))}; expected {WHAT[kind]}")
    written = description.pop("sha256", None)  # files of older versions have none
    if written is not None and written != content_hash(state, description):
        raise UserError(f"{path}: damaged: it is not what was written; remove it and make or copy it again")
    return state, description


def content_hash(state: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    """Hex digest of a description and of contiguous tensors: names, types, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for key in sorted(state):
        value = state[key]
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_backbone(path: Path, model: settings.Model) -> dict[str, Tensor]:
    """Tensors that the download stage prepared for this very model (none for `weights: none`)."""
    again = "run `python -m dualteacher download --weights`"
    if not path.exists():
        raise UserError(f"{path}: no such file; {again}")
    state, description = read(path, "backbone")
    for key, wanted in (("backbone", model.backbone), ("weights", model.weights)):
        if description.get(key) != wanted:
            raise UserError(
                f"{path}: was prepared for model.{key} = {description.get(key)}, params.yaml says {wanted}; {again}"
            )
    return state


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """What a .safetensors file or a PyTorch checkpoint holds; code in a checkpoint is never run."""
    if not path.is_file():
        raise UserError(f"{path}: no such file (model.weights in params.yaml)")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)[0]
    with open(path, "rb") as file:
        return load_checkpoint(file, str(path))


def load_checkpoint(file: Any, origin: str) -> Mapping[str, Any]:
    """The mapping in an open PyTorch checkpoint."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{origin}: not a PyTorch file of plain tensors, or cut short ({reason}…); save its state_dict again"
        ) from None
    if not isinstance(content, Mapping):
        raise UserError(f"{origin}: holds a {type(content).__name__}, not a mapping of names to tensors")
    return content


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of any safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file, or cut short ({error}); make or copy it again") from None
