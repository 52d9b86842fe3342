"""Weights of plain ViTs under timm's, Facebook's and Hugging Face's names give timm's own features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from dualteacher.models import weights
from dualteacher.models.segmenter import Segmenter, build
from dualteacher.system import paths
from dualteacher.system.errors import UserError

from .conftest import model, randomised

State = dict[str, Tensor]
PLAIN, REGISTERS = "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def whole(backbone: str, **options: object) -> nn.Module:
    """timm's network with random weights, small enough that its features stay finite and distinct."""
    return randomised(timm.create_model(backbone, num_classes=0, dynamic_img_size=True, **options))


def facebook(state: State) -> State:
    """The names in dinov2_vit*14_pretrain.pth: a mask token; registers, with a position for the class token too."""
    names = {"mask_token": torch.zeros(1, 384)} | state
    if (registers := names.pop("reg_token", None)) is not None:
        first = torch.randn(1, 1, 384)
        names["register_tokens"] = registers
        names["cls_token"] = state["cls_token"] - first
        names["pos_embed"] = torch.cat([first, state["pos_embed"]], 1)
    return names


def hugging_face(state: State) -> State:
    """The names in facebook/dinov2-*: query, key and value are layers of their own."""
    plain = {"norm.": "layernorm.", "patch_embed.proj.": "embeddings.patch_embeddings.projection."}
    inner = {"attn.proj": "attention.output.dense", "ls1.gamma": "layer_scale1.lambda1",
             "ls2.gamma": "layer_scale2.lambda1"}  # fmt: skip
    names: State = {}
    for key, value in facebook(state).items():
        if key.startswith("blocks."):
            _, number, rest = key.split(".", 2)
            start = f"encoder.layer.{number}."
            if rest.startswith("attn.qkv."):
                for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    names[f"{start}attention.attention.{part}.{rest.rpartition('.')[2]}"] = piece.clone()
                continue
            for ours, theirs in inner.items():
                rest = rest.replace(ours, theirs)
            names[start + rest] = value
        elif key == "pos_embed":
            names["embeddings.position_embeddings"] = value
        elif any(key.startswith(ours) for ours in plain):
            ours = next(ours for ours in plain if key.startswith(ours))
            names[plain[ours] + key.removeprefix(ours)] = value
        else:
            names[f"embeddings.{key}"] = value
    return names


def loaded(content: object, backbone: str) -> Segmenter:
    """A network that starts from a file of this content."""
    torch.save(content, "file.pth")
    section = model(backbone=backbone, weights="file.pth", architecture="dpt")
    weights.prepare_backbone(section, Path("file.pth"))
    return build(section, 3, paths.backbone_weights(backbone), drop_path=0.0).eval()


def assert_features(segmenter: Segmenter, theirs: nn.Module, sides: tuple[int, int] = (56, 70)) -> None:
    image = torch.rand(1, 3, *sides)
    with torch.no_grad():
        normalised = (image - segmenter.mean) / segmenter.std
        wanted = theirs.forward_intermediates(normalised, indices=[2, 5, 8, 11], norm=True, intermediates_only=True)
        for found, other in zip(segmenter.features(image), wanted, strict=True):
            torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("names", [dict, facebook, hugging_face, lambda state: {"teacher": {"backbone": state}}])
@pytest.mark.parametrize("backbone", [PLAIN, REGISTERS])
def test_published_names_give_timm_s_features(backbone: str, names: Callable[[State], object]) -> None:
    theirs = whole(backbone)
    segmenter = loaded(names(theirs.state_dict()), backbone)
    assert_features(segmenter, theirs)
    assert segmenter.pretrained["tensors"] == len(segmenter.backbone.state_dict())


def test_position_embeddings_of_another_size_are_interpolated_as_timm_does() -> None:
    """224 pixels are 16 by 16 patches; the backbone has 37 by 37."""
    theirs = whole(PLAIN, img_size=224)
    state = theirs.state_dict()
    segmenter = loaded(state, PLAIN)
    found = segmenter.backbone.state_dict()["model.pos_embed"]
    assert found.shape == (1, 1 + 37 * 37, 384)
    assert torch.equal(found, resample_abs_pos_embed(state["pos_embed"], [37, 37], [16, 16]))


def dinov3(state: State) -> State:
    """The names in Facebook's DINOv3 files, which timm's own network renames."""
    names = {k.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"): v for k, v in state.items()}
    names["storage_tokens"] = names.pop("reg_token")
    return names | {"mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.ones(16)}


def hugging_face_dinov3(state: State) -> State:
    """The names in facebook/dinov3-vit*: no bias of the key; those of query and value are zero."""
    shorter = {"patch_embed.proj.": "embeddings.patch_embeddings.", "attn.proj": "attention.o_proj",
               "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj", "ls1.gamma": "layer_scale1.lambda1",
               "ls2.gamma": "layer_scale2.lambda1", "storage_tokens": "embeddings.register_tokens",
               "cls_token": "embeddings.cls_token", "mask_token": "embeddings.mask_token"}  # fmt: skip
    names: State = {}
    for key, value in dinov3(state).items():
        key = key.replace("blocks.", "layer.")
        for ours, other in shorter.items():
            key = key.replace(ours, other)
        if key.endswith("attn.qkv.weight"):
            start = key.replace("attn.qkv.weight", "attention.")
            names |= {f"{start}{part}_proj.weight": w.clone() for part, w in zip("qkv", value.chunk(3), strict=True)}
            names |= {f"{start}{part}_proj.bias": torch.zeros(len(value) // 3) for part in "qv"}
        elif "rope" not in key:
            names[key] = value
    return names


@pytest.mark.parametrize("names", [dinov3, hugging_face_dinov3])
def test_dinov3(names: Callable[[State], State]) -> None:
    backbone = "vit_small_patch16_dinov3"
    theirs = whole(backbone)
    assert_features(loaded(names(theirs.state_dict()), backbone), theirs, sides=(64, 80))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {k: v for k, v in s.items() if "blocks.11" not in k}, r"blocks\.11\.\S+ is missing"),
        (lambda s: s | {"blocks.12.norm1.weight": torch.ones(384)}, r"blocks\.12\.norm1\.weight is unknown"),
        (lambda s: s | {"patch_embed.proj.weight": torch.ones(384, 3, 16, 16)}, r"is \(384, 3, 16, 16\), not"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_naming_keys(change: Callable[[State], State], words: str) -> None:
    state = facebook(timm.create_model(PLAIN, num_classes=0).state_dict())
    with pytest.raises(UserError, match=words) as caught:
        loaded(change(state), PLAIN)
    assert "\n" not in str(caught.value)
    assert not paths.backbone_weights(PLAIN).exists()


def test_a_file_with_registers_is_refused_by_a_backbone_without() -> None:
    state = facebook(timm.create_model(REGISTERS, num_classes=0).state_dict())
    with pytest.raises(UserError, match="register_tokens is unknown"):
        loaded(state, PLAIN)
