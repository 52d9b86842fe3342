"""OHEM equals the plain formulation on full-resolution probabilities, and is what the settings ask for."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from dualteacher import methods
from dualteacher.core import losses
from dualteacher.data.loader import finish
from dualteacher.methods.base import Clock

from .conftest import toy_settings
from .test_methods import batch_of, student_of


def plain(logits, label, threshold, minimum):
    """As published: probabilities of the true class, sorted; the limit is the larger of the two."""
    up = F.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False)
    valid = label != 255
    own = up.softmax(1).gather(1, torch.where(valid, label, 0)[:, None])[:, 0]
    own = torch.where(valid, own, 1.0)
    limit = threshold
    if minimum:
        ordered = own.flatten().sort().values
        limit = max(limit, float(ordered.detach()[min(minimum, ordered.numel()) - 1]))
    kept = valid & (own <= limit)
    entropy = F.cross_entropy(up, label, ignore_index=255, reduction="none")
    return entropy[kept].sum() / kept.sum().clamp(min=1), kept


def example(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 5, 8, 8, generator=generator)
    label = torch.randint(0, 5, (2, 32, 32), generator=generator)
    label[:, :4] = 255
    return logits, label


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("minimum", [0, 1, 300, 1500, 10**9])
def test_loss_and_gradient(threshold, minimum):
    logits, label = example()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = losses.ohem_loss(ours, label, threshold, minimum)
    expected, kept = plain(theirs, label, threshold, minimum)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)
    assert kept.sum() >= min(minimum, int((label != 255).sum()))


def test_all_pixels_ignored():
    logits, label = example()
    assert losses.ohem_loss(logits, torch.full_like(label, 255), 0.7, 100) == 0


@pytest.mark.parametrize(
    "name", ["supervised", "mean_teacher", "dual_teacher", "fixmatch", "unimatch", "unimatch_v2", "cps"]
)
def test_every_method_takes_the_loss_from_the_settings(name):
    hard = {"terms": ["ohem"], "ohem_threshold": 0.2, "ohem_minimum": 50}

    def supervised(settings) -> tuple[float, object]:
        student = student_of(settings)
        student.eval()  # the same logits each time
        method = methods.build(name, settings, student)
        clock, batch = Clock(0, 1), batch_of(settings)
        draws = method.draw(clock, batch, 0, torch.device("cpu"))
        return float(method.loss(student, finish(batch), draws, clock).parts["loss_supervised"]), method

    everything, _ = supervised(toy_settings())
    hardest, method = supervised(toy_settings(loss=hard))
    assert hardest > everything
    assert isinstance(method.supervised_loss, partial) and method.supervised_loss.func is losses.ohem_loss
