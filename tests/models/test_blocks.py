"""What is frozen stays as it is, teachers share it, and learning rates fall from the last block down."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dualteacher.commands import estimate
from dualteacher.core import ema
from dualteacher.machine.sync_norm import SyncBatchNorm, synchronise_norms
from dualteacher.methods.teaching import make_teacher
from dualteacher.models import blocks, recompute
from dualteacher.models.segmenter import Segmenter, build
from dualteacher.system.errors import UserError

from .conftest import model

BLOCKS = {
    "mit_b0": 8, "test_vit": 6, "convnext_tiny": 18, "resnet18": 8, "tf_efficientnet_lite0": 16,
    "swin_tiny_patch4_window7_224": 12, "vit_small_patch14_dinov2": 12,
}  # fmt: skip
LITE = "mobilenetv2_100"


def network(**changes: Any) -> Segmenter:
    return build(
        model(**{"backbone": LITE, "dropout": 0.0, "drop_path": 0.0} | changes), 3, None, drop_path=0.0, seed=0
    )


def trained(segmenter: Segmenter) -> dict[str, torch.Tensor]:
    """The state after a step with a large learning rate on random images, in train mode."""
    segmenter.train()
    optimizer = torch.optim.AdamW(segmenter.parameter_groups(0.5, 1.0, 0.1), lr=0.5)
    segmenter(torch.rand(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    return {key: value.clone() for key, value in segmenter.state_dict().items()}


@pytest.mark.parametrize("name", BLOCKS)
def test_layers_count_from_the_stem(name: str) -> None:
    with torch.device("meta"):
        segmenter = network(backbone=name)
    layers = blocks.layers(name, segmenter.backbone)
    assert set(layers.values()) == set(range(BLOCKS[name] + 1))
    first = next(iter(segmenter.backbone.named_parameters()))[0]
    last = [key for key, _ in segmenter.backbone.named_parameters()][-1]
    assert layers[first] == 0 and layers[last] == BLOCKS[name]


@pytest.mark.parametrize("freeze", ["none", "backbone", "backbone_norms", 3])
@pytest.mark.parametrize("name", [LITE, "mit_b0"])
def test_a_step_moves_all_but_what_is_frozen(name: str, freeze: str | int) -> None:
    segmenter = network(backbone=name, freeze=freeze)
    before = {key: value.clone() for key, value in segmenter.state_dict().items()}
    after = trained(segmenter)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    kept = {key for key in before if key not in moved} - {"mean", "std"}
    assert kept == before.keys() - segmenter.trained_state().keys()
    layers = blocks.layers(name, segmenter.backbone)
    wanted = {
        "none": lambda key: False,
        "backbone": lambda key: True,
        "backbone_norms": lambda key: blocks.is_norm(segmenter.backbone.get_submodule(key.rpartition(".")[0])),
        3: lambda key: layers[key] <= 3,
    }[freeze]
    frozen = {f"backbone.{key}" for key in layers if wanted(key)}
    assert frozen == {key for key, p in segmenter.named_parameters() if not p.requires_grad} == kept & frozen
    assert all("running" in key or "num_batches" in key for key in kept - frozen)


def test_frozen_modules_stay_in_eval_mode_and_are_not_synchronised() -> None:
    segmenter = network(freeze="backbone").train()
    assert not any(module.training for module in segmenter.backbone.modules())
    assert segmenter.head.training
    synchronise_norms(segmenter)
    assert not any(isinstance(module, SyncBatchNorm) for module in segmenter.backbone.modules())
    assert any(isinstance(module, SyncBatchNorm) for module in segmenter.head.modules())
    synchronise_norms(unfrozen := network())
    assert any(isinstance(module, SyncBatchNorm) for module in unfrozen.backbone.modules())


@pytest.mark.parametrize("normalisation", ["running", "batch"])
@pytest.mark.parametrize("freeze", ["backbone", "backbone_norms", 2])
def test_a_teacher_shares_what_is_frozen(freeze: str | int, normalisation: str) -> None:
    segmenter = network(freeze=freeze)
    teacher = make_teacher(segmenter, normalisation)
    frozen = {key for key, p in segmenter.named_parameters() if not p.requires_grad}
    ours = dict(segmenter.named_parameters())
    assert {key for key, p in teacher.named_parameters() if p is ours[key]} == frozen
    assert (teacher.backbone is segmenter.backbone) == (freeze == "backbone")
    after = trained(segmenter)
    assert segmenter.backbone.training == (freeze != "backbone")
    by_batch = [m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    assert bool(by_batch) == (normalisation == "batch")
    assert not any(m is own for part in segmenter.frozen_parts() if isinstance(part, nn.Module)
                   for own in part.modules() for m in by_batch)  # fmt: skip
    assert ema.distance(teacher, segmenter) > 0
    ema.update(teacher, segmenter, 0.0)
    assert all(torch.equal(value, after[key]) for key, value in teacher.state_dict().items())
    assert ema.distance(teacher, segmenter) == 0


def test_trained_state_comes_back() -> None:
    segmenter = network(freeze="backbone")
    state = trained(segmenter)
    part = {key: value.clone() for key, value in segmenter.trained_state().items()}
    assert all(not key.startswith("backbone.") for key in part)
    other = network(freeze="backbone")
    other.load_trained_state(part)
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_trained_state({key: part[key] for key in list(part)[1:]})


def test_rates_fall_from_the_last_block_down() -> None:
    segmenter = network(backbone="test_vit", freeze=2)
    groups = {group["name"]: group for group in segmenter.parameter_groups(1.0, 8.0, 0.1, 0.5)}
    rates = {name.removesuffix("_decay").removesuffix("_no"): group["lr"] for name, group in groups.items()}
    assert rates == {f"backbone_{layer}": 0.5 ** (7 - layer) for layer in (3, 4, 5, 6)} | {"head": 8.0}
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        name: 0.0 if "no_decay" in name else 0.1 for name in groups
    }
    found = [parameter for group in groups.values() for parameter in group["params"]]
    assert {id(p) for p in found} == {id(p) for p in segmenter.parameters() if p.requires_grad}
    assert len(found) == len({id(p) for p in found})


def test_more_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.freeze = 9: mit_b0 has 8 blocks; set it to 1 … 8") as caught:
        network(backbone="mit_b0", freeze=9)
    assert "\n" not in str(caught.value)


def gradients(segmenter: Segmenter) -> dict[str, torch.Tensor | None]:
    """Of a pass in train mode, with the same random numbers for all."""
    torch.manual_seed(5)
    segmenter.train()(torch.rand(2, 3, 64, 64)).square().mean().backward()
    return {key: p.grad for key, p in segmenter.named_parameters()}


@pytest.mark.parametrize("changes", [{"backbone": "test_vit", "architecture": "dpt"}, {"backbone": "mit_b0"},
                                     {"backbone": "test_convnext"}, {"freeze": "backbone_norms"}],
                         ids=lambda changes: next(iter(changes.values())))  # fmt: skip
def test_recomputing_changes_no_gradient_and_saves_memory(changes: dict[str, Any]) -> None:
    plain, again = (
        build(model(**{"backbone": LITE, "recompute": on} | changes), 3, None, drop_path=0.5, seed=0)
        for on in (False, True)
    )
    wanted, found = gradients(plain), gradients(again)
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        other = found[key]
        assert (value is None and other is None) or torch.equal(value, other), key  # type: ignore[arg-type]
    costs = [estimate.measure(one.to("meta"), 64) for one in (plain, again)]
    assert costs[1].kept < 0.9 * costs[0].kept
    assert costs[0].backward == 2 * costs[0].flops and costs[1].flops == costs[0].flops
    assert 2 * costs[0].flops < costs[1].backward < 3 * costs[0].flops
    assert all(module.grad_checkpointing for module in recompute.switches(again.backbone))
    for network in (make_teacher(again, "running"), again.eval()):
        assert not any(module.grad_checkpointing for module in recompute.switches(network.backbone))


def test_recomputing_that_would_change_results_is_refused() -> None:
    with pytest.raises(UserError, match="batch normalisation") as caught:
        network(recompute=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="timm cannot recompute hrnet_w18"):
        network(backbone="hrnet_w18", recompute=True)


def test_a_frozen_backbone_costs_one_pass_and_no_memory() -> None:
    costs = {
        what: estimate.measure(network(backbone="test_vit", architecture="dpt", freeze=what).to("meta"), 64)
        for what in ("none", 3, "backbone")
    }
    assert len({cost.flops for cost in costs.values()}) == len({cost.parameters for cost in costs.values()}) == 1
    assert costs["none"].backward > costs[3].backward > costs["backbone"].backward > 0
    assert costs["none"].kept > costs[3].kept > costs["backbone"].kept
