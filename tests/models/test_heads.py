"""The heads compute what was published; the faster order of operations changes nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.segmentation.deeplabv3 import ASPP

from dualteacher.models.heads import DeepLabV3PlusHead, SegFormerHead
from dualteacher.models.heads.layers import normalisation
from dualteacher.system.errors import UserError

CHANNELS = (8, 12, 20, 32)
SIDES = ((24, 17), (12, 9), (6, 5), (3, 3))


def levels(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(2, c, *side, dtype=dtype, requires_grad=True) for c, side in zip(CHANNELS, SIDES, strict=True)]


def plain_segformer(head: SegFormerHead, maps: list[Tensor]) -> Tensor:
    """As in the paper: every level widened, upsampled, concatenated (coarsest first), then fused."""
    wide = []
    for level, linear in zip(maps, head.linear, strict=True):
        x = linear(level.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, level.shape[-2:])
        wide.append(F.interpolate(x, size=maps[0].shape[-2:], mode="bilinear", align_corners=False))
    return head.classifier(head.dropout(F.relu(head.norm(head.fuse(torch.cat(wide[::-1], dim=1))))))


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("training", [False, True])
def test_fusing_before_upsampling_changes_nothing(training: bool, norm: str) -> None:
    head = SegFormerHead(CHANNELS, 16, 5, 0.0, norm).train(training)
    maps = levels()
    inputs = [*maps, *head.parameters()]
    fast, plain = head(maps), plain_segformer(head, maps)
    weights = torch.randn_like(fast)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad((fast * weights).mean(), inputs),
        torch.autograd.grad((plain * weights).mean(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_segformer_has_the_standard_parameters() -> None:
    shapes = {key: tuple(p.shape) for key, p in SegFormerHead(CHANNELS, 16, 5, 0.1).named_parameters()}
    assert shapes == {
        **{f"linear.{k}.weight": (16, c) for k, c in enumerate(CHANNELS)},
        **{f"linear.{k}.bias": (16,) for k in range(4)},
        "fuse.weight": (16, 64, 1, 1),
        "norm.weight": (16,),
        "norm.bias": (16,),
        "classifier.weight": (5, 16, 1, 1),
        "classifier.bias": (5,),
    }


def test_atrous_pyramid_is_the_known_one() -> None:
    """torchvision's, with the same weights: 1x1, rates 6, 12, 18, image pooling, in this order."""
    head = DeepLabV3PlusHead((24, 40), 32, 5, dropout=0.1)
    known = ASPP(40, [6, 12, 18], 32)
    ours = [head.pointwise, *head.atrous, head.pooled, head.project]
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tensors = [value for block in ours for value in block.state_dict().values()]
    known.load_state_dict(dict(zip(known.state_dict(), tensors, strict=True)))
    x = torch.randn(2, 40, 14, 21)
    with torch.no_grad():
        torch.testing.assert_close(head.eval().pyramid(x), known.eval()(x), rtol=1e-4, atol=1e-4)


def test_deeplab_decodes_at_the_fine_map() -> None:
    head = DeepLabV3PlusHead((24, 40), 256, 7, dropout=0.1)
    assert head([torch.randn(2, 24, 24, 18), torch.randn(2, 40, 6, 5)]).shape == (2, 7, 24, 18)
    assert [tuple(block[0].weight.shape) for block in head.decoder] == [(256, 304, 3, 3), (256, 256, 3, 3)]


def test_deeplab_refuses_a_training_batch_of_one_in_words() -> None:
    head = DeepLabV3PlusHead((24, 40), 16, 7, dropout=0.1)
    maps = [torch.randn(1, 24, 24, 18), torch.randn(1, 40, 6, 5)]
    with pytest.raises(UserError, match=r"batch\.labelled"):
        head(maps)
    assert head.eval()(maps).shape == (1, 7, 24, 18)


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (128, 32), (100, 25), (48, 12), (16, 4), (6, 1), (3, 1)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    norm = normalisation(channels, "group")
    assert isinstance(norm, torch.nn.GroupNorm) and norm.num_groups == groups
    assert norm(torch.randn(2, channels, 1, 1)).abs().max() > 0.1, "image pooling is not normalised away"


@pytest.mark.parametrize("kind", [SegFormerHead, DeepLabV3PlusHead])
def test_with_groups_an_image_trains_alone_as_in_a_batch(kind: type[SegFormerHead | DeepLabV3PlusHead]) -> None:
    channels, sides = (CHANNELS, SIDES) if kind is SegFormerHead else ((24, 40), ((24, 18), (6, 5)))
    maps = [torch.randn(2, c, *side) for c, side in zip(channels, sides, strict=True)]
    head = kind(channels, 16, 5, 0.0, "group").train()
    torch.testing.assert_close(head(maps)[:1], head([level[:1] for level in maps]), rtol=1e-4, atol=1e-5)
