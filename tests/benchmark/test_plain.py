"""The one-page specification and the fast implementation agree: losses, gradients, whole steps, with the same draws."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dualteacher.benchmark import cases, plain, programs
from dualteacher.benchmark.plain_network import PlainNetwork
from dualteacher.core import upsampling
from dualteacher.data.loader import StepBatch, finish
from dualteacher.models.segmenter import Segmenter
from tests.benchmark.test_command import ROOT

CPU = torch.device("cpu")
CASE = cases.Case("mit_b0", 7, 64, 2, 3)
SMALL = cases.Case("mobilenetv2_100", 5, 32, 2, 2)
MIXES = pytest.mark.parametrize("epoch", [0, 1], ids=["cutmix", "classmix"])


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    torch.set_num_threads(1)


def sharpen(*networks: nn.Module) -> None:
    """Logits so far apart that rounding does not change a label."""
    for network in networks:
        getattr(network, "copied", network).head.classifier.weight.data.mul_(30)


def padded(batch: StepBatch) -> StepBatch:
    """The same batch with padding at the right border."""
    inside = batch.inside.clone()
    inside[:, :, -9:] = False
    label = batch.label.clone()
    label[:, :7] = 255
    return batch._replace(inside=inside, label=label)


def pair(case: cases.Case, same_network: bool, dtype: torch.dtype = torch.float32):
    """Our step and the plain one, equal at the start; about half of the pixels are confident enough to count."""
    ours, theirs = programs.Ours(case, CPU), programs.Plain(case, CPU, same_network)
    options = theirs.training.options.model_copy(update={"threshold": 0.5})
    ours.job.method.options = theirs.training.options = options
    for program, networks in (
        (ours, [ours.job.student, *ours.job.method.teachers]),
        (theirs, [theirs.training.student, *theirs.training.teachers]),
    ):
        program.batch = padded(program.batch)
        sharpen(*networks)
        for network in networks:
            network.to(dtype)
    return ours, theirs


@MIXES
@pytest.mark.parametrize(
    ("case", "dtype"), [(CASE, torch.float32), (SMALL, torch.float64)], ids=["mit_b0", "mobilenetv2"]
)
def test_losses_and_gradients(case, dtype, epoch):
    """In train mode: dropout and drop path draw alike, batch statistics are those of the whole batch.

    MobileNet in float64: its batch statistics, over a few pixels at this size, amplify float32's rounding.
    """
    ours, theirs = pair(case, same_network=True, dtype=dtype)
    now = programs.clock(epoch)
    method, student = ours.job.method, ours.job.student
    draws = method.draw(now, ours.batch, 0, CPU)
    (view,) = draws.views
    torch.manual_seed(0)
    expected = method.loss(student, finish(ours.batch), draws, now)
    expected.total.backward()
    torch.manual_seed(0)
    training = theirs.training
    mix = plain.MIXES[epoch]
    teacher = training.teachers[epoch]
    found = plain.losses(training.student, teacher, theirs.batch, view, mix, training.options, training.mixing)
    found["loss"].backward()
    assert found.keys() == expected.parts.keys()
    assert 0.1 < float(found["kept"]) < 0.9
    for name, value in expected.parts.items():
        assert float(found[name].detach()) == pytest.approx(float(value), rel=1e-5, abs=1e-5), name
    for one, other in zip(student.parameters(), training.student.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-5 * max(1.0, float(one.grad.abs().max())))


@pytest.mark.slow
def test_four_steps_over_both_teachers_and_mixes():
    """Student and teachers, buffers included; in float64, since Adam amplifies the rounding of tiny gradients."""
    ours, theirs = pair(CASE, same_network=True, dtype=torch.float64)
    start = [value.clone() for value in ours.job.student.state_dict().values()]
    for step in range(4):
        expected, found = ours(step), theirs(step)
        for name in found:
            assert float(found[name]) == pytest.approx(float(expected[name]), abs=1e-5), (step, name)
    training = theirs.training
    networks = (ours.job.student, training.student), *zip(ours.job.method.teachers, training.teachers, strict=True)
    for one, other in networks:
        for name, value in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=1e-5, msg=name)
    moved = [not torch.equal(old, new) for old, new in zip(start, ours.job.student.state_dict().values(), strict=True)]
    assert sum(moved) > len(moved) / 2


@pytest.mark.parametrize("step", [0, 1, 2, 300])
def test_a_teacher_starts_its_turn_as_a_copy_and_then_follows(step):
    from dualteacher.core import ema

    teachers = [nn.BatchNorm1d(3), nn.BatchNorm1d(3)]
    student = nn.BatchNorm1d(3)
    for number, network in enumerate([*teachers, student]):
        for parameter in network.parameters():
            nn.init.constant_(parameter, number + 1.0)
    teachers[1].load_state_dict(teachers[0].state_dict())
    plain.follow(teachers[0], student, step, 0.99)
    ema.update(teachers[1], student, ema.decay(step, 0.99))
    for one, other in zip(teachers[0].parameters(), teachers[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert (step == 0) == torch.equal(teachers[0].weight, student.weight)


def test_labels_are_those_of_the_full_softmax():
    logits = torch.randn(2, 5, 6, 7) * 3
    inside = torch.ones(2, 24, 28, dtype=torch.bool)
    view = plain.pseudo_label(lambda image: logits, torch.zeros(2, 3, 24, 28), inside)
    label, confidence = upsampling.label_and_confidence(logits, (24, 28))
    torch.testing.assert_close(view.label, label)
    torch.testing.assert_close(view.confidence, confidence)


@pytest.mark.parametrize("model", ["mit_b0", "mobilenetv2_100"])
def test_the_plain_network_gives_the_same_logits(model):
    _, student, _ = programs.networks(cases.Case(model, 5, 64, 2, 2), CPU)
    student.eval()
    image = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(PlainNetwork(student)(image), student(image), rtol=1e-3, atol=1e-5)


@MIXES
def test_every_program_takes_its_step(epoch):
    ours, theirs, bare = (make(SMALL, CPU) for make in (programs.Ours, programs.Plain, programs.Bare))
    students = ours.job.student, theirs.training.student
    before = [next(iter(network.parameters())).detach().clone() for network in students]
    assert ours(epoch)["loss"] > 0 and theirs(epoch)["loss"] > 0
    after = [next(iter(network.parameters())) for network in students]
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    bare(epoch)
    assert isinstance(bare.student, Segmenter)
    assert all(parameter.grad is not None for parameter in bare.student.parameters())
