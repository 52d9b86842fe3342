"""Plain ViTs and the DPT head: timm's own features, any image size, every parameter trained."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from dualteacher.models import backbones, heads
from dualteacher.models.heads import DPTHead
from dualteacher.models.segmenter import Segmenter, build
from dualteacher.system.errors import UserError

from .conftest import model, randomised

# (backbone, patch): without and with register tokens, rotary embeddings, another patch size
PLAIN = [
    ("vit_tiny_patch16_224", 16),
    ("vit_small_patch14_dinov2", 14),
    ("vit_small_patch14_reg4_dinov2", 14),
    ("eva02_tiny_patch14_224", 14),
]


def network(backbone: str, architecture: str = "dpt", drop_path: float = 0.0) -> Segmenter:
    return build(model(backbone=backbone, architecture=architecture), 5, None, drop_path=drop_path, seed=0)


@pytest.mark.parametrize(("backbone", "patch"), PLAIN)
def test_features_are_timm_s_own(backbone: str, patch: int) -> None:
    segmenter = network(backbone).eval()
    whole = timm.create_model(backbone, num_classes=0, dynamic_img_size=True).eval()
    state = {key.removeprefix("model."): value for key, value in segmenter.backbone.state_dict().items()}
    missing, unknown = whole.load_state_dict(state, strict=False)
    assert not unknown and {key.partition(".")[0] for key in missing} <= {"fc_norm"}
    image = torch.rand(2, 3, 4 * patch, 3 * patch)
    normalised = (image - segmenter.mean) / segmenter.std
    with torch.no_grad():
        theirs = whole.forward_intermediates(normalised, indices=[2, 5, 8, 11], norm=True, intermediates_only=True)
        for ours, wanted in zip(segmenter.features(image), theirs, strict=True):
            assert ours.shape == (2, whole.num_features, 4, 3)
            torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("architecture", "finer"), [("dpt", 8), ("segformer", 1)])
@pytest.mark.parametrize(("backbone", "patch"), PLAIN[:2])
def test_odd_sizes_are_enlarged_to_whole_patches(backbone: str, patch: int, architecture: str, finer: int) -> None:
    segmenter = network(backbone, architecture).eval()
    assert segmenter.stride == patch / finer
    image = torch.rand(1, 3, 2 * patch + 1, 3 * patch - 1)
    with torch.no_grad():
        logits = segmenter(image)
        assert logits.shape == (1, 5, 3 * finer, 3 * finer)
        larger = F.interpolate(image, (3 * patch, 3 * patch), mode="bilinear")
        torch.testing.assert_close(logits, segmenter(larger))


@pytest.mark.parametrize(
    ("backbone", "architecture"), [*((name, "dpt") for name, _ in PLAIN), (PLAIN[0][0], "segformer")]
)
def test_every_parameter_learns(backbone: str, architecture: str) -> None:
    segmenter = network(backbone, architecture)
    segmenter(torch.rand(2, 3, 56, 70)).square().mean().backward()
    idle = [name for name, p in segmenter.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not idle


@pytest.mark.parametrize(
    ("backbone", "multiple"), [("swin_tiny_patch4_window7_224", 4), ("swinv2_tiny_window8_256", 4)]
)
def test_channels_last_maps_are_permuted(backbone: str, multiple: int) -> None:
    segmenter = network(backbone, "segformer").eval()
    assert (segmenter.multiple, segmenter.stride) == (multiple, 4)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = segmenter.backbone((image - segmenter.mean) / segmenter.std)
        for ours, theirs in zip(segmenter.features(image), maps, strict=True):
            assert torch.equal(ours.permute(0, 2, 3, 1), theirs)
        assert [m.shape[2:] for m in segmenter.features(image)] == [(16, 24), (8, 12), (4, 6), (2, 3)]
        assert segmenter(torch.rand(1, 3, 65, 99)).shape == (1, 5, 17, 25)


@pytest.mark.parametrize(("architecture", "finer"), [("segformer", 1), ("dpt", 2)])
def test_a_pyramid_that_begins_at_another_stride(architecture: str, finer: int) -> None:
    """Strides 8, 16 and 32 only."""
    assert backbones._levels("some", architecture, [8, 16, 32]) == (0, 1, 2)
    assert backbones._levels("some", architecture, [2, 4, 8, 16]) == (1, 2, 3)
    segmenter = network("fastvit_t8", architecture)
    assert segmenter.stride == 4 / finer
    head, stride = heads.create(architecture, (4, 6, 8), (8, 16, 32), 16, 5, 0.0)
    assert stride == 8 // finer
    maps = [torch.rand(2, c, s, s) for c, s in zip((4, 6, 8), (8, 4, 2), strict=True)]
    assert head(maps).shape == (2, 5, 8 * finer, 8 * finer)


@pytest.mark.parametrize("backbone", ["mvitv2_tiny", "twins_svt_small", "xcit_nano_12_p16_224"])
def test_any_size_on_networks_that_timm_marks_as_fixed(backbone: str) -> None:
    segmenter = network(backbone).eval()
    with torch.no_grad():
        for height, width in ((65, 99), (96, 64)):
            logits = segmenter(torch.rand(1, 3, height, width))
            assert logits.isfinite().all()
            for side, full in zip(logits.shape[2:], (height, width), strict=True):
                assert abs(side * segmenter.stride - full) < segmenter.multiple


def test_a_head_that_needs_two_strides_refuses_a_plain_transformer() -> None:
    with pytest.raises(UserError, match=r"one stride, deeplabv3plus needs two; set model\.architecture to dpt"):
        network("vit_tiny_patch16_224", "deeplabv3plus")


def test_the_published_widths() -> None:
    """Of the recipe for DINOv2-S: 48, 96, 192 and 384 channels once reassembled, 64 in the fusion."""
    head = DPTHead((384,) * 4, 64, 21, 0.0)
    assert [layer.in_channels for layer in head.project] == [48, 96, 192, 384]
    assert {layer.out_channels for layer in head.project} == {64}
    maps = [torch.rand(1, 384, 5, 3) for _ in range(4)]
    assert [tuple(layer(x).shape[2:]) for layer, x in zip(head.reassemble, maps, strict=True)] == [
        (20, 12), (10, 6), (5, 3), (3, 2),
    ]  # fmt: skip
    assert head(maps).shape == (1, 21, 40, 24)


def test_fusion_is_that_of_the_paper() -> None:
    """Layer by layer in the published order, which upsamples before the last convolution of a block."""
    head = randomised(DPTHead((8, 12, 20, 32), 16, 5, 0.0, plain=False))
    maps = [torch.randn(2, c, s, s + 1) for c, s in zip((8, 12, 20, 32), (16, 8, 4, 2), strict=True)]

    def unit(layers: torch.nn.Module, x: Tensor) -> Tensor:
        return layers.second(F.relu(layers.first(F.relu(x)))) + x

    with torch.no_grad():
        path: Tensor | None = None
        for k in (3, 2, 1, 0):
            x = head.project[k](maps[k])
            if path is not None:
                x = path + unit(head.fuse[k].before, x)
            size = [2 * side for side in maps[0].shape[2:]] if k == 0 else maps[k - 1].shape[2:]
            up = F.interpolate(unit(head.fuse[k].after, x), size, mode="bilinear", align_corners=False)
            path = head.fuse[k].out(up)
        wanted = head.classifier(F.relu(head.output(path)))
        torch.testing.assert_close(head(maps), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", ["mit_b0", "mobilenetv2_100"])
def test_dpt_on_a_pyramid_is_twice_as_fine(backbone: str) -> None:
    segmenter = network(backbone)
    assert segmenter.stride == 2
    logits = segmenter(torch.rand(2, 3, 64, 96))
    assert logits.shape == (2, 5, 32, 48)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in segmenter.parameters())


def test_names_and_shapes_do_not_depend_on_the_head() -> None:
    expected = backbones.expected("vit_tiny_patch16_224")
    state = network("vit_tiny_patch16_224", "segformer").backbone.state_dict()
    assert {key: value.shape for key, value in state.items()} == {key: v.shape for key, v in expected.items()}
    assert "model.norm.weight" in expected
