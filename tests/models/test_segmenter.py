"""A network for every backbone and head: shapes, normalisation, determinism, optimiser groups, refusals."""

from __future__ import annotations

import copy
import logging
from itertools import chain

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dualteacher.models.segmenter import build
from dualteacher.system.errors import UserError

from .conftest import model

BACKBONES = ["mit_b0", "tf_efficientnet_lite0", "mobilenetv2_100", "resnet50", "convnext_tiny"]


@pytest.mark.parametrize("architecture", ["segformer", "deeplabv3plus"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_any_image_size_traces_without_data(backbone: str, architecture: str) -> None:
    """Under FakeTensorMode there are no values, so a branch that depends on one would raise."""
    with torch.device("meta"):
        network = build(model(backbone=backbone, architecture=architecture), 7, None, drop_path=0.1)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("meta"):
        for height, width in ((32, 32), (65, 99)):
            logits = network(torch.rand(2, 3, height, width))
            assert logits.shape[:2] == (2, 7)
            for side, full in zip(logits.shape[2:], (height, width), strict=True):
                assert side in (full // network.stride, -(-full // network.stride))


@pytest.mark.parametrize("architecture", ["segformer", "deeplabv3plus"])
@pytest.mark.parametrize("backbone", ["mit_b0", "tf_efficientnet_lite0", "resnet18"])
def test_every_parameter_learns(backbone: str, architecture: str) -> None:
    network = build(model(backbone=backbone, architecture=architecture), 3, None, drop_path=0.0)
    if backbone == "resnet18" and architecture == "deeplabv3plus":
        assert network.features(torch.rand(1, 3, 64, 64))[-1].shape == (1, 512, 4, 4)
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not idle


def test_maps_of_the_default_backbone() -> None:
    network = build(model(backbone="tf_efficientnet_lite0"), 3, None, drop_path=0.0)
    maps = network.features(torch.rand(2, 3, 96, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 24, 24), (40, 12, 12), (112, 6, 6), (320, 3, 3)]


def test_images_are_normalised_as_the_backbone_was_pretrained() -> None:
    lite, mit = (build(model(backbone=name), 3, None, drop_path=0.0) for name in ("tf_efficientnet_lite0", "mit_b0"))
    assert lite.mean.flatten().tolist() == lite.std.flatten().tolist() == [0.5, 0.5, 0.5]
    torch.testing.assert_close(mit.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(mit.std.flatten(), torch.tensor([0.229, 0.224, 0.225]))
    seen = []
    mit.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    mit(mit.mean + 2 * mit.std.expand(1, 3, 32, 32))
    torch.testing.assert_close(seen[0], torch.full((1, 3, 32, 32), 2.0))


@pytest.mark.parametrize("backbone", ["mit_b0", "tf_efficientnet_lite0"])
def test_depth_and_dropout_are_random_in_training_only(backbone: str) -> None:
    network = build(model(backbone=backbone, dropout=0.0), 3, None, drop_path=0.9)
    image = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(network(image), network(image))
        network.eval()
        assert torch.equal(network(image), network(image))
        full = build(model(backbone=backbone), 3, None, drop_path=0.0)
        full.load_state_dict(network.state_dict())
        assert torch.equal(full.eval()(image), network(image))
        assert torch.equal(copy.deepcopy(network)(image), network(image))


def test_the_seed_alone_decides_the_start() -> None:
    torch.manual_seed(1)
    first = build(model(), 3, None, drop_path=0.1, seed=5)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn), "building moved torch's global random state"
    second = build(model(), 3, None, drop_path=0.0, seed=5)
    other = build(model(), 3, None, drop_path=0.1, seed=6)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.head.fuse.weight, other.head.fuse.weight)


@pytest.mark.parametrize("architecture", ["segformer", "deeplabv3plus"])
@pytest.mark.parametrize("backbone", ["mit_b0", "tf_efficientnet_lite0", "convnext_tiny"])
def test_optimiser_groups(backbone: str, architecture: str) -> None:
    with torch.device("meta"):
        network = build(model(backbone=backbone, architecture=architecture), 3, None, drop_path=0.1)
    groups = {group["name"]: group for group in network.parameter_groups(0.001, 10.0, 0.01)}
    names = {id(p): name for name, p in network.named_parameters()}
    found = {key: [names[id(p)] for p in group["params"]] for key, group in groups.items()}
    assert sorted(chain(*found.values())) == sorted(names.values()), "each parameter in exactly one group"
    assert list(groups) == ["backbone_decay", "backbone_no_decay", "head_decay", "head_no_decay"]
    assert [group["lr"] for group in groups.values()] == [0.001, 0.001, 0.01, 0.01]
    assert [group["weight_decay"] for group in groups.values()] == [0.01, 0.0, 0.01, 0.0]
    assert all(name.startswith(f"{key.split('_')[0]}.") for key, group in found.items() for name in group)
    shapes = dict(network.named_parameters())
    assert all(shapes[name].ndim == 1 for name in found["backbone_no_decay"] + found["head_no_decay"])
    assert all(shapes[name].ndim > 1 or name.endswith(("bias", "gamma")) for name in found["backbone_decay"])
    assert "head.classifier.bias" in found["head_decay"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "tf_efficientnet_lite_0"}, "did you mean tf_efficientnet_lite0"),
        ({"backbone": "mit_b6"}, "did you mean mit_b"),
        ({"backbone": "resnet50.nonsense"}, "no such pretrained tag"),
        ({"backbone": "levit_128"}, "one fixed size|needs feature maps at strides 4, 8, 16, 32, this backbone has"),
        ({"backbone": "fastvit_t8", "architecture": "deeplabv3plus"}, "at output stride 16"),
    ],
)
def test_backbones_that_cannot_serve_are_refused_in_one_line(changes: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build(model(**changes), 3, None, drop_path=0.1)
    assert changes["backbone"] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_backbone_without_paths_to_drop_says_so(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("dualteacher").propagate = True
    build(model(backbone="densenet121"), 3, None, drop_path=0.1)
    assert "no effect" in caplog.text
    caplog.clear()
    build(model(backbone="densenet121"), 3, None, drop_path=0.0)
    assert not caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "architecture"), [("mit_b5", "segformer"), ("resnet101", "deeplabv3plus")])
def test_the_large_networks_take_a_step(backbone: str, architecture: str) -> None:
    network = build(model(backbone=backbone, architecture=architecture), 3, None, drop_path=0.1)
    network(torch.rand(2, 3, 64, 80)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
