"""The plain formulation computes what our step computes, from the same draws: the comparison is of like with like."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dualteacher.benchmark import cases, plain, programs
from dualteacher.data.loader import finish
from dualteacher.settings import Settings

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
CASE = cases.Case("mit_b0", 7, 64, 2, 3)
STEPS = pytest.mark.parametrize("step", [0, 1], ids=["cutmix", "classmix"])


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    torch.set_num_threads(1)


def without_colour(settings: Settings) -> Settings:
    """No jitter, blur or grayscale: what is left, PIL and tensors do alike to the last bit."""
    still = {"probability": 0.0}
    mixing = settings.mixing.model_copy(
        update={
            "cutmix_jitter": settings.mixing.cutmix_jitter.model_copy(update=still),
            "strong_jitter": settings.mixing.strong_jitter.model_copy(update=still),
            "blur": 0.0,
            "grayscale": 0.0,
        }
    )
    return settings.model_copy(update={"mixing": mixing})


def both(monkeypatch: pytest.MonkeyPatch, step: int, colour: bool, threshold: float = 0.0):
    """The losses of our step and of the plain one; networks in eval mode, so that they give the same logits."""
    original = cases.Case.settings

    def changed(case: cases.Case) -> Settings:
        found = original(case) if colour else without_colour(original(case))
        own = found.methods.dual_teacher.model_copy(update={"threshold": threshold})
        return found.model_copy(update={"methods": found.methods.model_copy(update={"dual_teacher": own})})

    monkeypatch.setattr(cases.Case, "settings", changed)
    theirs = plain.Plain(CASE, CPU)
    _, student, method = programs.networks(CASE, CPU)
    sharpen(student, *method.teachers, theirs.student.own, *(teacher.own for teacher in theirs.teachers))
    batch = theirs.batch
    if not colour:
        still = torch.tensor([plain.IDENTITY])
        batch = batch._replace(labelled_factors=still.expand(2, -1), unlabelled_factors=still.expand(3, -1))
    now = programs.clock(step)
    draws = method.draw(now, batch, 0, CPU)
    ours = method.loss(student, finish(batch), draws, now).parts
    return ours, {name: value.detach() for name, value in theirs.losses(batch, draws, now).items()}


def sharpen(*networks: torch.nn.Module) -> None:
    """In eval mode, with logits far enough apart that rounding does not turn a label."""
    for network in networks:
        network.eval()
        network.head.classifier.weight.data.mul_(30)


@STEPS
def test_losses_are_equal_where_the_views_are(monkeypatch, step):
    ours, theirs = both(monkeypatch, step, colour=False, threshold=0.5)
    assert ours.keys() == theirs.keys()
    assert 0.1 < float(ours["kept"]) < 0.9
    for name, value in ours.items():
        assert float(theirs[name]) == pytest.approx(float(value), rel=1e-4), name


@STEPS
def test_losses_are_close_with_colours_rounded_to_bytes(monkeypatch, step):
    ours, theirs = both(monkeypatch, step, colour=True)
    for name, value in ours.items():
        assert float(theirs[name]) == pytest.approx(float(value), rel=0.05), name


@pytest.mark.parametrize("model", ["mit_b0", "mobilenetv2_100"])
def test_the_plain_network_gives_the_same_logits(model):
    _, student, _ = programs.networks(cases.Case(model, 5, 64, 2, 2), CPU)
    student.eval()
    image = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(plain.PlainNetwork(student)(image), student(image), rtol=1e-3, atol=1e-5)


@STEPS
def test_every_program_takes_its_step(step):
    small = cases.Case("mobilenetv2_100", 5, 32, 2, 2)
    ours, theirs, bare = (make(small, CPU) for make in (programs.Ours, plain.Plain, programs.Bare))
    before = [next(iter(network.parameters())).detach().clone() for network in (ours.job.student, theirs.student)]
    assert ours(step)["loss"] > 0 and theirs(step)["loss"] > 0
    after = [next(iter(network.parameters())) for network in (ours.job.student, theirs.student)]
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    bare(step)
    assert all(parameter.grad is not None for parameter in bare.student.parameters())
