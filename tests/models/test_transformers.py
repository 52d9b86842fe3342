"""DINOv2's and DINOv3's features are those of Hugging Face's own network, from the file that it writes; random weights.

Needs `transformers`, which is not in the lock: `pip install transformers` to run it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dualteacher.models import weights
from dualteacher.models.segmenter import Segmenter, build
from dualteacher.system import paths

from .conftest import TINY, model, randomised

transformers = pytest.importorskip("transformers", reason="not in the lock: pip install transformers")


def started(backbone: str, folder: Path) -> Segmenter:
    """A network that starts from the model.safetensors of a folder."""
    section = model(backbone=backbone, architecture="dpt", weights="model.safetensors")
    weights.prepare_backbone(section, folder / "model.safetensors")
    return build(section, 3, paths.backbone_weights(backbone), drop_path=0.0).eval()


def same_maps(
    segmenter: Segmenter, theirs: torch.nn.Module, norm: torch.nn.Module, extra: int, grid: tuple[int, int]
) -> None:
    """Each block's map is theirs, normalised. extra: tokens before those of the patches."""
    patch = segmenter.backbone.model.patch_embed.patch_size[0]
    image = torch.rand(2, 3, grid[0] * patch, grid[1] * patch)
    with torch.no_grad():
        normalised = (image - segmenter.mean) / segmenter.std
        blocks = theirs(pixel_values=normalised, output_hidden_states=True).hidden_states[1:]
        for ours, block in zip(segmenter.features(image), blocks, strict=True):
            wanted = norm(block)[:, extra:].transpose(1, 2).unflatten(2, grid)
            torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "kind", "registers"),
    [("vit_small_patch14_dinov2", "Dinov2", 0), ("vit_small_patch14_reg4_dinov2", "Dinov2WithRegisters", 4)],
)
def test_features_are_those_of_transformers(
    tiny: None,
    backbone: str,
    kind: str,
    registers: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=TINY["embed_dim"], num_hidden_layers=TINY["depth"], num_attention_heads=TINY["num_heads"],
        image_size=518, patch_size=14, **({"num_register_tokens": registers} if registers else {}),
    )  # fmt: skip
    theirs = randomised(getattr(transformers, f"{kind}Model")(config))
    theirs.save_pretrained(tmp_path)
    same_maps(started(backbone, tmp_path), theirs, theirs.layernorm, 1 + registers, (37, 37))


@pytest.mark.parametrize(
    ("backbone", "gated", "biases"),
    [
        ("vit_small_patch16_dinov3", False, False),
        ("vit_small_patch16_dinov3_qkvb", False, True),
        ("vit_small_plus_patch16_dinov3", True, False),
    ],
)
def test_dinov3_too(
    tiny: None, backbone: str, gated: bool, biases: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm's networks without `qkvb` leave out the biases of query and value, which are zero in the published files."""
    monkeypatch.chdir(tmp_path)
    config = transformers.DINOv3ViTConfig(
        hidden_size=TINY["embed_dim"], num_hidden_layers=TINY["depth"], num_attention_heads=TINY["num_heads"],
        intermediate_size=4 * TINY["embed_dim"], num_register_tokens=4, patch_size=16,
        use_gated_mlp=gated, hidden_act="silu" if gated else "gelu",
    )  # fmt: skip
    theirs = randomised(transformers.DINOv3ViTModel(config))
    for name, parameter in theirs.named_parameters():
        if name.endswith(("q_proj.bias", "v_proj.bias")) and not biases:
            torch.nn.init.zeros_(parameter)
    theirs.save_pretrained(tmp_path)
    same_maps(started(backbone, tmp_path), theirs, theirs.norm, 5, (6, 4))
