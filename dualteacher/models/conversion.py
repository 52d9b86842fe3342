"""Checkpoints of other programs: rename their tensors to our names, and refuse what does not fit.

Mix Transformers: the official `mit_b*.pth`, Hugging Face's `nvidia/mit-b*` and `nvidia/segformer-b*`, or an
mmsegmentation checkpoint. Other backbones: timm's names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from dualteacher.models import backbones
from dualteacher.models.mix_transformer import VARIANTS
from dualteacher.system.errors import UserError

State = dict[str, Tensor]

WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys under which training programs nest the weights
HEADS = ("head.", "classifier.", "decode_head.", "auxiliary_head.")  # in checkpoints of a Mix Transformer

OFFICIAL = (
    (re.compile(r"^patch_embed1\."), lambda match: "patch_embed."),
    (re.compile(r"^patch_embed([2-4])\."), lambda match: f"stages.{int(match[1]) - 1}.downsample."),
    (re.compile(r"^block([1-4])\.(\d+)\."), lambda match: f"stages.{int(match[1]) - 1}.blocks.{match[2]}."),
    (re.compile(r"^norm([1-4])\."), lambda match: f"stages.{int(match[1]) - 1}.norm."),
    (re.compile(r"\.dwconv\.dwconv\."), lambda match: ".dwconv."),
)

HUGGING_FACE = (
    (re.compile(r"^encoder\.patch_embeddings\.0\."), lambda match: "patch_embed."),
    (re.compile(r"^encoder\.patch_embeddings\.([1-3])\."), lambda match: f"stages.{match[1]}.downsample."),
    (re.compile(r"^encoder\.layer_norm\.([0-3])\."), lambda match: f"stages.{match[1]}.norm."),
    (re.compile(r"^encoder\.block\.([0-3])\.(\d+)\."), lambda match: f"stages.{match[1]}.blocks.{match[2]}."),
    (re.compile(r"\.attention\.self\.query\."), lambda match: ".attn.q."),
    (re.compile(r"\.attention\.self\.(key|value|sr)\."), lambda match: f".attn.{match[1]}."),
    (re.compile(r"\.attention\.self\.layer_norm\."), lambda match: ".attn.norm."),
    (re.compile(r"\.attention\.output\.dense\."), lambda match: ".attn.proj."),
    (re.compile(r"\.mlp\.dense([12])\."), lambda match: f".mlp.fc{match[1]}."),
    (re.compile(r"\.dwconv\.dwconv\."), lambda match: ".dwconv."),
    (re.compile(r"\.layer_norm_([12])\."), lambda match: f".norm{match[1]}."),
    (
        re.compile(r"^((?:patch_embed|stages\.\d\.downsample)\.)layer_norm\."),
        lambda match: f"{match[1]}norm.",
    ),
)


def convert(backbone: str, state: Mapping[str, Any]) -> State:
    """A checkpoint's backbone tensors under our names, without heads and classifiers.

    Unknown keys are kept, so that `fit` can name them in its error.
    """
    state = _unwrap(state)
    return _convert_mix_transformer(state) if backbone in VARIANTS else _convert_timm(backbone, state)


def _unwrap(state: Mapping[str, Any]) -> State:
    """The weights in a training program's checkpoint; only those with the prefix `backbone.` if there are any."""
    for key in WRAPPERS:
        if isinstance(state.get(key), Mapping):
            state = state[key]
    found = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    inside = {key.removeprefix("backbone."): value for key, value in found.items() if key.startswith("backbone.")}
    return inside or found


def _convert_mix_transformer(state: State) -> State:
    state = {key.removeprefix("segformer."): value for key, value in state.items() if not key.startswith(HEADS)}
    rules = HUGGING_FACE if any(key.startswith("encoder.") for key in state) else OFFICIAL
    renamed: State = {}
    for key, value in state.items():
        for pattern, name in rules:
            key = pattern.sub(name, key)
        renamed[key] = value
    return _join_key_value(renamed)


def _join_key_value(state: State) -> State:
    """Concatenate attention's key and value layers, which Hugging Face stores separately, into one; key first."""
    joined: State = {}
    for name, value in state.items():
        partner = name.replace(".attn.key.", ".attn.value.")
        if ".attn.key." in name and partner in state:
            joined[name.replace(".attn.key.", ".attn.kv.")] = torch.cat([value, state[partner]])
        elif not (".attn.value." in name and name.replace(".attn.value.", ".attn.key.") in state):
            joined[name] = value
    return joined


def _convert_timm(backbone: str, state: State) -> State:
    """Names of timm's classification network → its feature extractor, which may fold or prefix them."""
    expected, whole = backbones.expected(backbone), backbones.classifier(backbone)
    renamed: State = {}
    for key, value in state.items():
        folded = key.replace(".", "_", 1)
        name = next((name for name in (key, folded, f"model.{key}") if name in expected), None)
        if name is not None:
            renamed[name] = value
        elif key not in whole:  # drops layers that only the classifier has
            renamed[key] = value
    return renamed


def by_position(backbone: str, state: Mapping[str, Tensor], origin: str) -> State:
    """Rename a classification network's tensors by position: same layers, same order, other names.

    Skips batch counters on both sides. UserError unless number, shapes and last name parts (weight, bias, …) match.
    """
    whole = {key: value for key, value in backbones.classifier(backbone).items() if not _is_counter(key)}
    given = {key: value for key, value in state.items() if not _is_counter(key)}
    if len(whole) != len(given):
        raise UserError(
            f"{origin}: contains {len(given)} tensors, but {backbone} has {len(whole)}; choose other weights"
        )
    named = dict(zip(whole, given.values(), strict=True))
    for (name, ours), (theirs, value) in zip(whole.items(), given.items(), strict=True):
        if ours.shape != value.shape or name.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise UserError(
                f"{origin}: does not fit {backbone}: found {theirs} {tuple(value.shape)}, expected {name}"
                f" {tuple(ours.shape)}"
            )
    return named


def _is_counter(key: str) -> bool:
    """Whether this is batch normalisation's batch counter. Old files lack it; nothing here reads it."""
    return key.endswith("num_batches_tracked")


def fit(state: State, expected: Mapping[str, Tensor], origin: str) -> State:
    """`state` in the order and dtypes of `expected`. UserError if keys or shapes differ."""
    state = {key: torch.zeros_like(value, device="cpu") for key, value in expected.items() if _is_counter(key)} | state
    missing = [f"{key} is missing" for key in expected if key not in state]
    extra = [f"{key} is unknown" for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if missing or extra or shapes:
        first = list(chain(missing[:2], extra[:2], shapes[:2]))
        more = len(missing) + len(extra) + len(shapes) - len(first)
        raise UserError(
            f"{origin}: weights do not fit the network: {'; '.join(first)}" + (f" (and {more} more)" if more else "")
        )
    return {key: state[key].to(value.dtype) for key, value in expected.items()}
