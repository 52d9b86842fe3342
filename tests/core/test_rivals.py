"""The other methods and the ablations: what teaches whom, on which views, at which cost."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dualteacher import methods
from dualteacher.core import losses, mixing
from dualteacher.data.loader import StepBatch, finish
from dualteacher.methods import student_pass
from dualteacher.methods.base import Clock, Shard
from dualteacher.methods.pseudo_labels import label, self_label
from dualteacher.methods.unimatch_v2 import draw_channels

from .conftest import toy_settings
from .test_methods import EPOCH, batch_of, flat, step, student_of

RIVALS = ["fixmatch", "fixmatch_ema", "unimatch", "unimatch_v2", "cps"]
AVERAGED = ["fixmatch_ema", "unimatch_v2"]  # a moving average of the student labels


def clock_at(number: int) -> Clock:
    return Clock(number, EPOCH)


def build(name: str, settings):
    student = student_of(settings)
    method = methods.build(name, settings, student)
    return student.train(), method


def train_steps(name: str, count: int = 2, lr: float = 0.05):
    settings = toy_settings()
    student, method = build(name, settings)
    networks = [student, *method.partners]
    optimizer = torch.optim.SGD([p for network in networks for p in network.parameters()], lr=lr)
    before = [flat(network) for network in networks]
    results = [step(method, student, optimizer, number, settings)[1] for number in range(count)]
    return before, [flat(network) for network in networks], results


@pytest.mark.parametrize("name", RIVALS)
def test_a_step_trains_every_network_and_says_its_parts(name):
    before, after, results = train_steps(name)
    assert len(after) == (2 if name == "cps" else 1)
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    for result in results:
        parts = {key: float(value) for key, value in result.parts.items()}
        assert parts["loss"] == pytest.approx(parts["loss_supervised"] + parts["loss_mix"], rel=1e-5)
        assert parts["loss_mix"] > 0 and 0 < parts["kept"] <= 1


@pytest.mark.parametrize("name", RIVALS)
def test_labelling_leaves_the_student_in_train_mode_and_its_buffers_alone(name):
    settings = toy_settings()
    student, _ = build(name, settings)
    buffers = {key: value.clone() for key, value in student.state_dict().items() if "running" in key}
    self_label(student, finish(batch_of(settings)))
    assert student.training
    assert all(torch.equal(student.state_dict()[key], value) for key, value in buffers.items())


def test_unimatch_sees_two_different_strong_views_and_fixmatch_the_first_of_them():
    settings = toy_settings()
    _, fix = build("fixmatch", settings)
    _, uni = build("unimatch", settings)
    batch = batch_of(settings)
    (only,), (first, second) = (m.draw(clock_at(0), batch, 0, torch.device("cpu")).views for m in (fix, uni))
    assert torch.equal(only.strong_jitter, first.strong_jitter) and torch.equal(only.box, first.box)
    assert not torch.equal(first.box, second.box)


def maps_of_ones(name):
    """What the head gets if every feature is 1: (student, maps, draws)."""
    settings = toy_settings()
    student, method = build(name, settings)
    batch = batch_of(settings)
    draws = method.draw(clock_at(0), batch, 0, torch.device("cpu"))
    maps = []
    student.features = lambda image: [torch.ones(len(image), width, 4, 4) for width in student.widths]
    hook = student.head.register_forward_pre_hook(lambda module, inputs: maps.append(inputs[0]))
    method.loss(student, finish(batch), draws, clock_at(0))
    hook.remove()
    return student, maps[-1], draws


def test_feature_dropout_touches_the_last_images_only():
    _, maps, _ = maps_of_ones("unimatch")
    for level in maps:
        assert (level[:6] == 1).all()
        planes = level[6:].flatten(2)
        assert ((planes == 0).all(2) | (planes == 2).all(2)).all() and 0.1 < (planes == 0).float().mean() < 0.9


@pytest.mark.parametrize("name", AVERAGED)
def test_a_moving_average_labels_and_follows_the_student(name):
    settings = toy_settings()
    student, method = build(name, settings)
    teacher = method.teachers[0]
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    for number, decay in ((0, 0.0), (1, 0.5), (2, 2 / 3), (400, 0.996)):
        before = flat(teacher)
        step(method, student, optimizer, number, settings)
        torch.testing.assert_close(flat(teacher), decay * before + (1 - decay) * flat(student), rtol=1e-4, atol=1e-6)
        assert method.labeller(student, clock_at(number)) is teacher and method.active(clock_at(number)) == 0
    images = finish(batch_of(settings))
    found = method.pseudo_label(student, images)
    assert not torch.equal(found.confidence, self_label(student, images).confidence)
    assert torch.equal(found.confidence, label(teacher, images).confidence)


def test_fixmatch_without_a_teacher_keeps_no_second_network():
    _, method = build("fixmatch", toy_settings())
    assert method.teachers == [] and method.active(clock_at(0)) is None


def test_unimatch_v2_draws_fixmatchs_views_and_complementary_channels():
    settings = toy_settings(batch={"labelled": 4, "unlabelled": 8, "groups": 2})
    _, fix = build("fixmatch", settings)
    _, two = build("unimatch_v2", settings)
    batch, cpu = batch_of(settings), torch.device("cpu")
    (only,) = fix.draw(clock_at(0), batch, 0, cpu, Shard(0, 2)).views
    draws = two.draw(clock_at(0), batch, 0, cpu, Shard(0, 2))
    assert torch.equal(only.box, draws.views[0].box) and len(draws.views) == 2
    assert draws.channels.shape == (8, 320)  # the widest map of MobileNetV2
    spared = (draws.channels == 1).all(1)
    assert [int(half.sum()) for half in spared.chunk(2)] == [2, 2]
    dropped = draws.channels[~spared]
    assert ((dropped == 0) | (dropped == 2)).all() and 0.4 < (dropped == 0).float().mean() < 0.6
    assert len(dropped.unique(dim=0)) == len(dropped), "each image has its own mask"
    # a process that has the second group only draws the same
    half = StepBatch(*(tensor.chunk(2)[1] for tensor in batch))
    assert torch.equal(two.draw(clock_at(0), half, 0, cpu, Shard(4, 1)).channels, draws.channels[4:])
    assert not torch.equal(two.draw(clock_at(1), batch, 0, cpu, Shard(0, 2)).channels, draws.channels)


@pytest.mark.parametrize(("dropped", "each", "spared"), [(0.0, 4, 4), (1.0, 4, 0), (0.5, 3, 1), (0.5, 1, 0)])
def test_the_share_of_images_with_dropped_channels(dropped, each, spared):
    channels = draw_channels(0, 0, each, 16, dropped, Shard())
    assert int((channels == 1).all(1).sum()) == spared


def test_the_head_sees_the_two_views_with_complementary_channels():
    student, maps, draws = maps_of_ones("unimatch_v2")
    assert [level.shape[1] for level in maps] == list(student.widths)
    for level in maps:
        known, first, second = level.split(2)
        assert (known == 1).all() and torch.equal(first + second, torch.full_like(first, 2.0))
        assert torch.equal(first[:, :, 0, 0], draws.channels[:, : level.shape[1]])


def test_cps_networks_start_apart_and_learn_each_others_labels():
    settings = toy_settings()
    student, method = build("cps", settings)
    partner = method.partners[0]
    assert torch.equal(flat(partner.backbone), flat(student.backbone))
    assert not torch.equal(flat(partner.head), flat(student.head))
    batch = finish(batch_of(settings))
    draws = method.draw(clock_at(0), batch_of(settings), 0, torch.device("cpu"))
    student.eval(), partner.eval()
    # with both networks frozen in evaluation mode the loss can be written down
    frozen = [copy.deepcopy(network) for network in (student, partner)]
    labels = [losses.pseudo_label(network(batch.unlabelled), (32, 32)) for network in frozen]
    mixed = [
        mixing.strong_cutmix(mixing.PseudoLabelled(batch.unlabelled, *one), draws.views[0], settings.mixing)
        for one in labels
    ]
    expected = sum(
        losses.supervised_loss(network(mixed[0].image), other.label)
        for network, other in zip(frozen, reversed(mixed), strict=True)
    )
    for network in (student, partner):  # keep them in evaluation mode through self_label
        network.train = lambda mode=True, network=network: network
    result = method.loss(student, batch, draws, clock_at(0))
    assert float(result.parts["loss_mix"]) == pytest.approx(float(expected), rel=1e-4)


def with_options(settings, name: str, **changes: Any):
    """The settings with other options of a method, and a threshold that an untrained network reaches."""
    options = settings.methods[name]
    threshold = {"threshold": 0.3} if hasattr(options, "threshold") else {}
    changed = options.model_copy(update=threshold | changes)
    return settings.model_copy(update={"methods": settings.methods | {name: changed}})


@pytest.mark.parametrize("name", [*RIVALS, "mean_teacher", "dual_teacher"])
def test_unlabelled_losses_rise_little_by_little(name):
    settings = with_options(toy_settings(), name, ramp_steps=4, unlabelled_weight=0.5)
    student, method = build(name, settings)
    for number, risen in ((0, 0.0), (1, 0.25), (4, 1.0), (9, 1.0)):
        draws = method.draw(clock_at(number), batch_of(settings), 0, torch.device("cpu"))
        parts = method.loss(student, finish(batch_of(settings)), draws, clock_at(number)).parts
        unlabelled = 0.5 * parts["loss_mix"] + 0.2 * parts.get("loss_consistency", 0)
        assert float(unlabelled) > 0
        assert float(parts["loss"]) == pytest.approx(float(parts["loss_supervised"] + risen * unlabelled), rel=1e-5)


@pytest.mark.parametrize("name", [*RIVALS, "supervised", "mean_teacher", "dual_teacher"])
def test_the_settings_know_which_methods_have_teachers(name):
    settings = toy_settings()
    assert settings.methods[name].has_teachers == bool(build(name, settings)[1].teachers)


@pytest.mark.parametrize("name", [*RIVALS, "mean_teacher", "dual_teacher", "dual_teacher_paste"])
@pytest.mark.parametrize("sizes", [(4, 12, 1), (2, 14, 2)], ids=["1:3", "1:7"])
def test_more_unlabelled_than_labelled_images(name, sizes):
    labelled, unlabelled, groups = sizes
    sizes = {"labelled": labelled, "unlabelled": unlabelled, "groups": groups, "accumulate": 1, "crop": 32}
    settings = with_options(toy_settings(batch=sizes), name)
    student, method = build(name, settings)
    batch, shard = batch_of(settings), Shard(0, groups)
    draws = method.draw(clock_at(7), batch, 0, torch.device("cpu"), shard)
    found = method.loss(student, finish(batch), draws, clock_at(7), shard)
    found.total.backward()
    assert torch.isfinite(found.total) and float(found.parts["loss_mix"]) > 0


def test_cost_counts_every_pass():
    settings = toy_settings()  # 2 labelled, 2 unlabelled
    seen = {name: build(name, settings)[1].images_seen() for name in (*RIVALS, "dual_teacher", "supervised")}
    assert seen == {
        "fixmatch": (4, 2), "fixmatch_ema": (4, 2), "unimatch": (8, 2), "unimatch_v2": (6, 2), "cps": (8, 4),
        "dual_teacher": (6, 2), "supervised": (2, 0),
    }  # fmt: skip


@pytest.mark.parametrize("freeze", ["none", "backbone"])
@pytest.mark.parametrize("name", [*RIVALS, "supervised", "mean_teacher", "dual_teacher", "dual_teacher_triple"])
def test_the_counted_images_are_those_that_pass_through_networks(name, freeze):
    """(with gradient, without) of one step, counted at every backbone's door."""
    settings = toy_settings(model={"freeze": freeze})
    student, method = build(name, settings)
    passed = {True: 0, False: 0}

    def count(module, inputs):
        passed[torch.is_grad_enabled()] += len(inputs[0])

    backbones = {network.backbone for network in (student, *method.teachers, *method.partners)}
    assert len(backbones) == 1 or freeze == "none"
    for backbone in backbones:
        backbone.register_forward_pre_hook(count)
    draws = method.draw(clock_at(0), batch_of(settings), 0, torch.device("cpu"))
    method.loss(student, finish(batch_of(settings)), draws, clock_at(0))
    assert (passed[True], passed[False]) == method.images_seen()


@pytest.mark.parametrize("norm", ["joint", "by_view"])
@pytest.mark.parametrize("name", ["unimatch", "cps"])
def test_features_computed_once_are_those_of_every_pass(name, norm, monkeypatch):
    settings = toy_settings(model={"freeze": "backbone", "dropout": 0.0}, batch={"norm": norm})
    found = []
    for shared in (True, False):
        with monkeypatch.context() as patch:
            if not shared:
                patch.setattr(student_pass, "once", lambda network: None)
            student, method = build(name, settings)
            optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
            found.append(
                step(method, student, optimizer, 0, settings)[1].parts | {"head": flat_gradients(student.head)}
            )
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-3, atol=1e-5)


def flat_gradients(module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters()])


def actives(name: str, count: int) -> list[int]:
    _, method = build(name, toy_settings())
    return [method.active(clock_at(s)) for s in range(count)]


def test_turns_of_the_ablations():
    assert actives("dual_teacher_single", 7) == [0] * 7
    assert actives("dual_teacher_triple", 20) == [0] * 6 + [1] * 6 + [2] * 6 + [0] * 2  # two epochs of three steps
    assert actives("dual_teacher_steps", 10) == [0] * 4 + [1] * 4 + [0] * 2
    _, triple = build("dual_teacher_triple", toy_settings())
    decays = [triple.decay(clock_at(s)) for s in range(8)]
    assert decays == pytest.approx([1 - 1 / (i + 1) for i in (*range(6), 0, 1)])
    assert [triple.mix(clock_at(s)) for s in (0, 5, 6, 11, 12)] == ["cutmix"] * 2 + ["classmix"] * 2 + ["cutmix"]
    _, permanent = build("dual_teacher_permanent", toy_settings())
    assert [permanent.decay(clock_at(s)) for s in (0, 3, 4)] == pytest.approx([0, 0.75, 0.8])
    assert actives("dual_teacher_permanent", 7) == actives("dual_teacher", 7)


@pytest.mark.parametrize("name", RIVALS)
def test_no_step_waits_for_the_device(name):
    settings = toy_settings()
    student, method = build(name, settings)
    student.to("meta")
    for network in (*method.teachers, *method.partners):
        network.to("meta")
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch = StepBatch(*(torch.empty_like(tensor, device="meta") for tensor in batch_of(settings)))
        draws = method.draw(clock_at(0), batch, 0, torch.device("meta"))
        result = method.loss(student, finish(batch), draws, clock_at(0))
        result.total.backward()
        assert result.total.shape == ()
