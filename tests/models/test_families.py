"""Vision Transformers by family, as tiny networks: timm's own features, any image size, timm's weight files."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.beit import gen_relative_position_index

from dualteacher.models import backbones, beit, conversion
from dualteacher.models.segmenter import build
from dualteacher.system.errors import UserError

from .conftest import model, randomised

TAKEN = {  # patch size
    "beit_base_patch16_224": 16,
    "beitv2_base_patch16_224": 16,
    "eva_giant_patch14_224": 14,
    "eva02_tiny_patch14_224": 14,
    "vit_base_patch16_siglip_224": 16,
    "vit_small_patch16_dinov3": 16,
    "vit_base_patch16_clip_224": 16,
    "deit3_small_patch16_224": 16,
    "naflexvit_base_patch16_gap": 16,
}
REFUSED = {  # timm's reason
    "cait_xxs24_224": r"Input height \(112\) doesn't match model \(224\)",
    "vit_relpos_small_patch16_224": r"Input height \(112\) doesn't match model \(224\)",
}
REFUSED_AS_THEY_ARE = {
    "maxvit_nano_rw_256": r"width \(12\) must be divisible by window \(8\)",
    "hiera_tiny_224": r"dimension of length 3136",
}


@pytest.mark.parametrize(("name", "patch"), TAKEN.items())
def test_what_timm_gives_as_features_is_taken(tiny: None, name: str, patch: int) -> None:
    segmenter = build(model(backbone=name, architecture="dpt"), 3, None, drop_path=0.0, seed=0).eval()
    assert (segmenter.multiple, segmenter.widths) == (patch, (48,) * 4)
    randomised(segmenter.backbone)
    whole: Any = timm.create_model(name, num_classes=0).eval()
    state = {key.removeprefix("model."): value for key, value in segmenter.backbone.state_dict().items()}
    missing, unknown = whole.load_state_dict(state, strict=False)
    assert not unknown and {key.partition(".")[0] for key in missing} <= {"fc_norm", "attn_pool"}
    image = torch.rand(1, *whole.pretrained_cfg["input_size"])
    with torch.no_grad():
        normalised = (image - segmenter.mean) / segmenter.std
        theirs = whole.forward_intermediates(normalised, indices=[0, 1, 2, 3], norm=True, intermediates_only=True)
        for ours, wanted in zip(segmenter.features(image), theirs, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
    segmenter(torch.rand(2, 3, 5 * patch - 3, 2 * patch + 1)).square().mean().backward()
    assert not [key for key, p in segmenter.named_parameters() if p.grad is None or not p.grad.isfinite().all()]

    converted = conversion.fit(conversion.convert(name, whole.state_dict()), backbones.expected(name), "file")
    for key, value in segmenter.backbone.state_dict().items():
        assert torch.equal(converted[key], value), key


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_what_timm_ties_to_one_size_is_refused_with_timm_s_reason(tiny: None, name: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"{name}: accepts images of one fixed size only .*{reason}") as caught:
        backbones.create(name, "dpt", 0.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "reason"), REFUSED_AS_THEY_ARE.items())
def test_other_networks_of_one_size(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"{name}: accepts images of one fixed size only .*{reason}"):
        backbones.create(name, "dpt", 0.0)


def test_a_beit_file_with_position_indices_and_another_size_fits(tiny: None) -> None:
    """Indices are recomputed, biases interpolated by timm's rule."""
    name = "beit_base_patch16_224"
    larger = timm.create_model(name, img_size=64)
    state = larger.state_dict() | {"blocks.0.attn.relative_position_index": torch.zeros(17, 17, dtype=torch.long)}
    converted = conversion.fit(conversion.convert(name, state), backbones.expected(name), "file")
    assert converted["model.blocks.0.attn.relative_position_bias_table"].shape == (27 * 27 + 3, 4)


def test_biases_follow_the_grid() -> None:
    for grid in ((3, 5), (4, 4), (1, 2)):
        rows = torch.arange((2 * grid[0] - 1) * (2 * grid[1] - 1) + 3).roll(3)
        ours = rows[beit.relative_positions(*grid, torch.device("cpu"))]
        assert torch.equal(ours, gen_relative_position_index(grid))
    table = torch.randn(7 * 7 + 3, 2)
    assert beit.resized(table, (4, 4), (4, 4)) is table
    larger = beit.resized(table, (4, 4), (6, 5))
    assert larger.shape == (11 * 9 + 3, 2) and torch.equal(larger[-3:], table[-3:])
    turned = torch.cat([table[:-3].flip(0), table[-3:]])
    torch.testing.assert_close(beit.resized(turned, (4, 4), (6, 5))[:-3].flip(0), larger[:-3])
    torch.testing.assert_close(beit.resized(torch.full_like(table, 2.0), (4, 4), (6, 5)), torch.full_like(larger, 2.0))
