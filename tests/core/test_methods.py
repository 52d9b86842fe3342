"""Which teacher labels, which one moves, by how much, with which mix; and that no step waits for the device."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from dualteacher import methods
from dualteacher.core import ema, losses, seeds
from dualteacher.data.loader import StepBatch, finish
from dualteacher.methods.base import Clock
from dualteacher.models import segmenter

from .conftest import toy_settings

EPOCH = 3  # steps


def student_of(settings, seed=0, classes=3):
    return segmenter.build(settings.model, classes, None, drop_path=settings.model.drop_path, seed=seed)


def batch_of(settings, seed=0, classes=3) -> StepBatch:
    generator = torch.Generator().manual_seed(seed)
    b, u, s = settings.batch.labelled, settings.batch.unlabelled, settings.batch.crop

    def images(n):
        return torch.randint(0, 256, (n, 3, s, s), generator=generator, dtype=torch.uint8)

    factors = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    label = torch.randint(0, classes, (b, s, s), generator=generator, dtype=torch.uint8)
    inside = torch.ones((u, s, s), dtype=torch.bool)
    return StepBatch(images(b), label, factors.repeat(b, 1), images(u), inside, factors.repeat(u, 1))


def step(method, student, optimizer, number, settings):
    clock = Clock(number, EPOCH)
    batch = batch_of(settings, seed=number)
    torch.manual_seed(seeds.derive(0, "dropout", number))
    draws = method.draw(clock, batch, 0, torch.device("cpu"))
    result = method.loss(student, finish(batch), draws, clock)
    optimizer.zero_grad(set_to_none=True)
    result.total.backward()
    optimizer.step()
    method.after_step(student, clock)
    return clock, result


def flat(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_two_epochs_of_dual_teacher():
    """The bookkeeping of the paper's section 3.1, step by step."""
    settings = toy_settings()
    student = student_of(settings)
    method = methods.build("dual_teacher", settings, student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    student.train()
    assert len(method.teachers) == 2
    for number in range(2 * EPOCH + 1):
        before = [flat(teacher) for teacher in method.teachers]
        clock, _ = step(method, student, optimizer, number, settings)
        active, waiting = clock.epoch % 2, 1 - clock.epoch % 2
        assert method.active(clock) == active
        assert method.mix(clock) == ("cutmix", "classmix")[clock.epoch % 2]
        decay = min(1 - 1 / (clock.step_in_epoch + 1), 0.99)
        expected = decay * before[active] + (1 - decay) * flat(student)
        torch.testing.assert_close(flat(method.teachers[active]), expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(flat(method.teachers[waiting]), before[waiting])
        if clock.step_in_epoch == 0:  # the waking teacher becomes a copy of the student, buffers and all
            woken, own = method.teachers[active].state_dict(), student.state_dict()
            assert all(torch.equal(woken[key], own[key]) for key in own)


def test_mean_teacher_ramps_once_and_keeps_one_teacher():
    settings = toy_settings()
    student = student_of(settings)
    method = methods.build("mean_teacher", settings, student)
    decays = [method.decay(Clock(s, EPOCH)) for s in (0, 1, 3, 99, 500)]
    assert decays == pytest.approx([0, 0.5, 0.75, 0.99, 0.99])
    assert [method.mix(Clock(s, EPOCH)) for s in (0, 3, 6)] == ["cutmix", "classmix", "cutmix"]
    assert len(method.teachers) == 1 and {method.active(Clock(s, EPOCH)) for s in range(9)} == {0}


def test_teachers_label_without_dropout_or_depth_and_carry_no_gradient():
    settings = toy_settings(model={"dropout": 0.5, "drop_path": 0.5})
    student = student_of(settings)
    student.train()
    method = methods.build("dual_teacher", settings, student)
    image = torch.rand(2, 3, 32, 32)
    teacher = method.teachers[0]
    assert torch.equal(teacher(image), teacher(image))
    assert not torch.equal(student(image), student(image))
    assert not any(p.requires_grad for p in teacher.parameters())
    assert student.training and all(p.requires_grad for p in student.parameters())


def test_batch_normalisation_of_teachers_is_a_parameter():
    settings = toy_settings()
    options = settings.methods["dual_teacher"].model_copy(update={"normalisation": "batch"})
    settings = settings.model_copy(update={"methods": settings.methods | {"dual_teacher": options}})
    student = student_of(settings)
    batchwise = methods.build("dual_teacher", settings, student).teachers[0]
    running = methods.build("dual_teacher", toy_settings(), student).teachers[0]
    image = torch.rand(4, 3, 32, 32)
    before = {key: value.clone() for key, value in batchwise.state_dict().items() if "running" in key}
    assert not torch.allclose(batchwise(image), running(image))
    after = batchwise.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_losses_add_up_as_published():
    settings = toy_settings()
    student = student_of(settings)
    student.train()
    method = methods.build("dual_teacher", settings, student)
    method.options = settings.methods["dual_teacher"].model_copy(update={"threshold": 0.0})
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
    for number in (0, EPOCH):
        _, result = step(method, student, optimizer, number, settings)
        parts = {name: float(value) for name, value in result.parts.items()}
        total = parts["loss_supervised"] + parts["loss_mix"] + 0.2 * parts["loss_consistency"]
        assert parts["loss"] == pytest.approx(total, rel=1e-6) and parts["kept"] == 1
        assert parts["loss_mix"] > 0 and parts["loss_consistency"] > 0


def test_padding_of_unlabelled_images_is_ignored():
    settings = toy_settings()
    method = methods.build("dual_teacher", settings, student_of(settings))
    batch = batch_of(settings)
    batch.inside[:, 20:] = False
    weak = method.pseudo_label(finish(batch), Clock(0, EPOCH))
    assert (weak.label[:, 20:] == losses.IGNORE).all() and (weak.confidence[:, 20:] == 0).all()
    assert (weak.label[:, :20] != losses.IGNORE).all()


@pytest.mark.parametrize("step_number", [0, EPOCH], ids=["cutmix", "classmix"])
@pytest.mark.parametrize("name", ["supervised", "mean_teacher", "dual_teacher"])
def test_no_step_waits_for_the_device(name, step_number):
    """On fake tensors any .item(), bool() or data-dependent shape raises."""
    settings = toy_settings()
    student = student_of(settings).to("meta").train()
    method = methods.build(name, settings, student)
    with FakeTensorMode(allow_non_fake_inputs=True):
        optimizer = torch.optim.AdamW(student.parameter_groups(0.1, 10.0, 0.01), lr=0.1, foreach=True)
        clock = Clock(step_number, EPOCH)
        real = batch_of(settings)
        batch = StepBatch(*(torch.empty_like(tensor, device="meta") for tensor in real))
        draws = method.draw(clock, batch, 0, torch.device("meta"))
        result = method.loss(student, finish(batch), draws, clock)
        result.total.backward()
        optimizer.step()
        method.after_step(student, clock)
        assert result.total.shape == ()


def test_the_wait_detector_detects():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.ones(3, device="meta").sum().item()


def test_ema_update_and_distance():
    settings = toy_settings()
    student, teacher = student_of(settings, 0), student_of(settings, 1)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    gap = (flat(teacher) - flat(student)).norm() / flat(student).norm()
    assert ema.distance(teacher, student).item() == pytest.approx(gap.item(), rel=1e-3)
    ema.update(teacher, student, 0.9)
    own = student.state_dict()
    for key, value in teacher.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.9 * before[key] + 0.1 * own[key])
        else:
            assert torch.equal(value, own[key])
    ema.update(teacher, student, 0.0)
    assert all(torch.equal(value, own[key]) for key, value in teacher.state_dict().items())
    assert ema.distance(teacher, student) == 0
    other = copy.deepcopy(student)
    assert ema.distance(other, student) == 0
