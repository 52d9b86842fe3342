"""Other people's names for the same weights: renaming to ours, and refusing what does not fit.

Mix Transformers come as the official `mit_b*.pth`, as Hugging Face's `nvidia/mit-b*` and
`nvidia/segformer-b*`, or inside an mmsegmentation checkpoint; everything else comes with timm's names.
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

WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys under which training programs keep the weights
HEADS = ("head.", "classifier.", "decode_head.", "auxiliary_head.")  # of a Mix Transformer's checkpoint

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
    """A checkpoint's tensors under our names, heads and classifiers left out.

    Keys that mean nothing to us are kept as they are, for `fit` to refuse them by name.
    """
    state = _unwrap(state)
    return _convert_mix_transformer(state) if backbone in VARIANTS else _convert_timm(backbone, state)


def _unwrap(state: Mapping[str, Any]) -> State:
    """The weights inside a training program's checkpoint; the backbone's alone where it marks them."""
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
    """Hugging Face keeps attention's key and value apart; here they are one layer, key first."""
    joined: State = {}
    for name, value in state.items():
        partner = name.replace(".attn.key.", ".attn.value.")
        if ".attn.key." in name and partner in state:
            joined[name.replace(".attn.key.", ".attn.kv.")] = torch.cat([value, state[partner]])
        elif not (".attn.value." in name and name.replace(".attn.value.", ".attn.key.") in state):
            joined[name] = value
    return joined


def _convert_timm(backbone: str, state: State) -> State:
    """From timm's classification network to its feature extractor, which may fold or prefix names."""
    expected, whole = backbones.expected(backbone), backbones.classifier(backbone)
    renamed: State = {}
    for key, value in state.items():
        folded = key.replace(".", "_", 1)
        name = next((name for name in (key, folded, f"model.{key}") if name in expected), None)
        if name is not None:
            renamed[name] = value
        elif key not in whole:  # else: a layer that only the classifier needs
            renamed[key] = value
    return renamed


def by_position(backbone: str, state: Mapping[str, Tensor], origin: str) -> State:
    """Tensors of a classification network that lists the same layers in the same order under other names.

    Counters of batch normalisation are left out on both sides; every shape must match. UserError otherwise.
    """
    whole = {key: value for key, value in backbones.classifier(backbone).items() if not _is_counter(key)}
    given = {key: value for key, value in state.items() if not _is_counter(key)}
    if len(whole) != len(given):
        raise UserError(f"{origin}: holds {len(given)} tensors, {backbone} has {len(whole)}")
    named = dict(zip(whole, given.values(), strict=True))
    for (name, ours), (theirs, value) in zip(whole.items(), given.items(), strict=True):
        if ours.shape != value.shape or name.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise UserError(
                f"{origin}: does not fit {backbone}: {theirs} {tuple(value.shape)} stands where {name}"
                f" {tuple(ours.shape)} is expected"
            )
    return named


def _is_counter(key: str) -> bool:
    """Whether it counts the batches a normalisation has seen: old files lack it, nothing here reads it."""
    return key.endswith("num_batches_tracked")


def fit(state: State, expected: Mapping[str, Tensor], origin: str) -> State:
    """`state` with `expected`'s order and dtypes; UserError that says what differs if keys or shapes do."""
    state = {key: torch.zeros_like(value, device="cpu") for key, value in expected.items() if _is_counter(key)} | state
    missing = [f"{key} is missing" for key in expected if key not in state]
    extra = [f"{key} is not known" for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if missing or extra or shapes:
        first = list(chain(missing[:2], extra[:2], shapes[:2]))
        more = len(missing) + len(extra) + len(shapes) - len(first)
        raise UserError(
            f"{origin}: these weights do not fit the network: {'; '.join(first)}"
            + (f" (and {more} more)" if more else "")
        )
    return {key: state[key].to(value.dtype) for key, value in expected.items()}
