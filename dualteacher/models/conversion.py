"""Checkpoints of other programs: rename their tensors to our names, and refuse what does not fit.

Mix Transformers: the official `mit_b*.pth`, whose names mmsegmentation and SMP keep, or Hugging Face's
`nvidia/mit-b*` and `nvidia/segformer-b*`. Plain ViTs: timm's names, Facebook's DINOv2 and DINOv3, Hugging Face's
`facebook/dinov2-*`. Other backbones: timm's names. foreign_checkpoints.py finds the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain

import torch
from torch import Tensor

from dualteacher.models import backbones, timm_backbones
from dualteacher.models.mix_transformer import VARIANTS
from dualteacher.system.errors import UserError

State = dict[str, Tensor]
Rules = Sequence[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]]

# Layers beside a backbone's own, of classifiers, segmentation networks and self-supervised training.
HEADS = (
    *("head.", "fc.", "classifier.", "aux_classifier.", "decode_head.", "auxiliary_head.", "segmentation_head."),
    *("projection_head.", "projector.", "predictor.", "prototypes."),
)

OFFICIAL: Rules = (
    (re.compile(r"^patch_embed1\."), lambda match: "patch_embed."),
    (re.compile(r"^patch_embed([2-4])\."), lambda match: f"stages.{int(match[1]) - 1}.downsample."),
    (re.compile(r"^block([1-4])\.(\d+)\."), lambda match: f"stages.{int(match[1]) - 1}.blocks.{match[2]}."),
    (re.compile(r"^norm([1-4])\."), lambda match: f"stages.{int(match[1]) - 1}.norm."),
    (re.compile(r"\.dwconv\.dwconv\."), lambda match: ".dwconv."),
)

HUGGING_FACE: Rules = (
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


# Hugging Face's DINOv2 → Facebook's names, which timm translates.
HUGGING_FACE_DINOV2: Rules = (
    (re.compile(r"^embeddings\.position_embeddings$"), lambda match: "pos_embed"),
    (re.compile(r"^embeddings\.patch_embeddings\.projection\."), lambda match: "patch_embed.proj."),
    (re.compile(r"^embeddings\."), lambda match: ""),
    (re.compile(r"^encoder\.layer\."), lambda match: "blocks."),
    (re.compile(r"^layernorm\."), lambda match: "norm."),
    (re.compile(r"\.attention\.output\.dense\."), lambda match: ".attn.proj."),
    (re.compile(r"\.attention\.attention\."), lambda match: ".attn."),
    (re.compile(r"\.layer_scale([12])\.lambda1$"), lambda match: f".ls{match[1]}.gamma"),
    (re.compile(r"\.mlp\.weights_in\."), lambda match: ".mlp.w12."),
    (re.compile(r"\.mlp\.weights_out\."), lambda match: ".mlp.w3."),
)


# Hugging Face's DINOv3 → Facebook's names, which timm translates.
HUGGING_FACE_DINOV3: Rules = (
    (re.compile(r"^embeddings\.patch_embeddings\."), lambda match: "patch_embed.proj."),
    (re.compile(r"^embeddings\.register_tokens$"), lambda match: "storage_tokens"),
    (re.compile(r"^embeddings\."), lambda match: ""),
    (re.compile(r"^(?:model\.)?layer\."), lambda match: "blocks."),
    (re.compile(r"\.attention\.q_proj\."), lambda match: ".attn.query."),
    (re.compile(r"\.attention\.k_proj\."), lambda match: ".attn.key."),
    (re.compile(r"\.attention\.v_proj\."), lambda match: ".attn.value."),
    (re.compile(r"\.attention\.o_proj\."), lambda match: ".attn.proj."),
    (re.compile(r"\.layer_scale([12])\.lambda1$"), lambda match: f".ls{match[1]}.gamma"),
)
PLAIN_MLP: Rules = (
    (re.compile(r"\.mlp\.up_proj\."), lambda match: ".mlp.fc1."),
    (re.compile(r"\.mlp\.down_proj\."), lambda match: ".mlp.fc2."),
)
GATED_MLP: Rules = (
    (re.compile(r"\.mlp\.gate_proj\."), lambda match: ".mlp.w1."),
    (re.compile(r"\.mlp\.up_proj\."), lambda match: ".mlp.w2."),
    (re.compile(r"\.mlp\.down_proj\."), lambda match: ".mlp.w3."),
)


def convert(backbone: str, state: State) -> State:
    """One network's backbone tensors under our names, without heads and classifiers.

    Unknown keys are kept, so that an error can name them.
    """
    return _convert_mix_transformer(state) if backbone in VARIANTS else _convert_timm(backbone, state)


def _convert_mix_transformer(state: State) -> State:
    state = {key.removeprefix("segformer."): value for key, value in state.items() if not key.startswith(HEADS)}
    rules = HUGGING_FACE if any(key.startswith("encoder.") for key in state) else OFFICIAL
    return _join_key_value(_renamed(state, rules))


def _renamed(state: State, rules: Rules) -> State:
    renamed: State = {}
    for key, value in state.items():
        for pattern, name in rules:
            key = pattern.sub(name, key)
        renamed[key] = value
    return renamed


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
    expected, whole = _timm_names(backbone)
    if "embeddings.patch_embeddings.projection.weight" in state:
        state = _join_attention(_renamed(state, HUGGING_FACE_DINOV2))
    elif "embeddings.patch_embeddings.weight" in state:
        mlp = GATED_MLP if any(".mlp.gate_proj." in key for key in state) else PLAIN_MLP
        state = _renamed(state, [*HUGGING_FACE_DINOV3, *mlp])
        state |= {  # the key's bias is zero and left out
            key.replace(".query.", ".key."): torch.zeros_like(value)
            for key, value in state.items()
            if key.endswith(".attn.query.bias")
        }
        state = _join_attention(state)
    state = timm_backbones.translated(backbone, state)
    renamed: State = {}
    for key, value in state.items():
        folded = key.replace(".", "_", 1)
        name = next((name for name in (key, folded, f"model.{key}") if name in expected), None)
        if name is not None:
            renamed[name] = value
        elif key not in whole and not key.startswith(HEADS):  # drops layers that only the classifier has
            renamed[key] = value
    return renamed


def _join_attention(state: State) -> State:
    """Concatenate query, key and value, which Hugging Face stores separately, into Facebook's qkv."""
    joined: State = {}
    for name, value in state.items():
        parts = [re.sub(r"\.attn\.(query|key|value)\.", f".attn.{part}.", name) for part in ("query", "key", "value")]
        if name not in parts or parts[0] == parts[1] or not all(part in state for part in parts):
            joined[name] = value
        elif name == parts[0]:
            joined[name.replace(".attn.query.", ".attn.qkv.")] = torch.cat([state[part] for part in parts])
    return joined


@cache
def _timm_names(backbone: str) -> tuple[frozenset[str], frozenset[str]]:
    """Keys of the feature extractor and of the whole classifier."""
    return frozenset(backbones.expected(backbone)), frozenset(backbones.classifier(backbone))


def by_position(backbone: str, state: Mapping[str, Tensor], origin: str) -> State:
    """Rename a classification network's tensors by position: same layers, same order, other names.

    Skips batch counters on both sides. UserError unless number, shapes and last name parts (weight, bias, …) match.
    """
    whole = {key: value for key, value in backbones.classifier(backbone).items() if not is_counter(key)}
    given = {key: value for key, value in state.items() if not is_counter(key)}
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


def is_counter(key: str) -> bool:
    """Whether this is batch normalisation's batch counter. Old files lack it; nothing here reads it."""
    return key.endswith("num_batches_tracked")


def fit(state: State, expected: Mapping[str, Tensor], origin: str) -> State:
    """`state` in the order and dtypes of `expected`. UserError if keys or shapes differ."""
    if differs := differences(state, expected):
        raise UserError(f"{origin}: weights do not fit the network: {differs}")
    state = {key: torch.zeros_like(value, device="cpu") for key, value in expected.items() if is_counter(key)} | state
    return {key: state[key].to(value.dtype) for key, value in expected.items()}


def count(state: Mapping[str, Tensor]) -> int:
    """Number of tensors without batch counters."""
    return sum(not is_counter(key) for key in state)


def matching(state: State, expected: Mapping[str, Tensor]) -> int:
    """Number of `expected`'s tensors, without batch counters, that `state` has in the right shape and kind."""
    return sum(
        key in state and not is_counter(key) and not _mismatch(key, state[key], value)
        for key, value in expected.items()
    )


def differences(state: State, expected: Mapping[str, Tensor]) -> str:
    """Why `state` does not fit, with the first keys of each kind; "" if it fits. Batch counters may be missing."""
    missing = [f"{key} is missing" for key in expected if key not in state and not is_counter(key)]
    extra = [f"{key} is unknown" for key in state if key not in expected]
    unlike = [text for key, value in expected.items() if key in state and (text := _mismatch(key, state[key], value))]
    first = list(chain(missing[:2], extra[:2], unlike[:2]))
    more = len(missing) + len(extra) + len(unlike) - len(first)
    return "; ".join(first) + (f" (and {more} more)" if more else "")


def _mismatch(key: str, found: Tensor, wanted: Tensor) -> str:
    """How shapes differ, or that one tensor has integers, as quantised weights do; "" if neither."""
    if found.shape != wanted.shape:
        return f"{key} is {tuple(found.shape)}, not {tuple(wanted.shape)}"
    if found.is_floating_point() != wanted.is_floating_point():
        return f"{key} is {found.dtype}, not {wanted.dtype}".replace("torch.", "")
    return ""
