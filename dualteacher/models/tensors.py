"""Tensors on disk: our self-describing safetensors files.

Our files have one metadata entry, `dualteacher`: JSON with the format version, the file's kind, its description, and a
sha256 of all that and the tensors, which reveals a flipped bit. Equal content gives equal bytes; several entries would
not, since safetensors does not keep their order.
"""

from __future__ import annotations

import hashlib
import json
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
    """Write tensors and their description atomically. ValueError if the description has a reserved key."""
    if clash := {"format", "kind", "sha256"} & description.keys():
        raise ValueError(f"reserved keys in the description: {clash}")
    plain = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    whole = {"format": FORMAT, "kind": kind, **description}
    text = json.dumps(whole | {"sha256": content_hash(plain, whole)}, sort_keys=True, allow_nan=False)
    # Not save_file: it ignores the umask and makes files that only their owner can read.
    files.write_bytes(path, safetensors.torch.save(plain, metadata={ENTRY: text}))


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, description) of a file written by `write`. UserError for any other file."""
    state, metadata = read_safetensors(path)
    if ENTRY not in metadata:
        raise UserError(f"{path}: a safetensors file, but not written by this program: expected {WHAT[kind]}")
    try:
        description = json.loads(metadata[ENTRY])
        version, found = description["format"], description["kind"]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: unreadable description; create the file again") from None
    if version != FORMAT:
        raise UserError(f"{path}: file format {version!r}, but this version reads {FORMAT}; create the file again")
    if found != kind:
        raise UserError(f"{path}: contains {WHAT.get(found, repr(found))}; expected {WHAT[kind]}")
    written = description.pop("sha256", None)  # files of older versions lack it
    if written is not None and written != content_hash(state, description):
        raise UserError(f"{path}: damaged (wrong checksum); remove it and create or copy it again")
    return state, description


def content_hash(state: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    """sha256 of a description and contiguous tensors (names, dtypes, shapes, bytes), hex."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for key in sorted(state):
        value = state[key]
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_backbone(path: Path, model: settings.Model) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, their source) that the download stage prepared for this model; no tensors for `weights: none`."""
    again = "run `python -m dualteacher download --weights`"
    if not path.exists():
        raise UserError(f"{path}: no such file; {again}")
    state, description = read(path, "backbone")
    for key, wanted in (("backbone", model.backbone), ("weights", model.weights)):
        if description.get(key) != wanted:
            raise UserError(
                f"{path}: prepared for model.{key} = {description.get(key)}, but params.yaml has {wanted}; {again}"
            )
    source = description.get("source", {})
    if model.weights != "none" and not source.get("tensors"):  # older versions wrote such files
        raise UserError(f"{path}: contains no tensors, or was prepared by an older version; {again}")
    own = model.own_weights
    if own is not None and files.is_file(own[0]) and files.sha256(own[0]) != source.get("sha256"):
        raise UserError(f"{path}: {own[0]} has changed since; {again}")
    return state, source


def origin_in_words(source: Mapping[str, Any]) -> str:
    """Number of tensors, file and network of a backbone's weights; source: as `prepare_backbone` records it."""
    if source["kind"] == "none":
        return "no weights, random start"
    network = f", network {source['network']}" if source.get("network") else ""
    channels = f", for {source['channels']} channels" if source.get("channels") else ""
    return f"{source['tensors']} tensors from {source['file']}{network}{channels}"


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of any safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file, or truncated ({error}); create or copy it again") from None
