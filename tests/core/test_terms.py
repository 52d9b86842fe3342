"""The loss on labelled pixels: each term equals its plain formulation, and the settings choose and add them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck

from dualteacher import methods
from dualteacher.core import losses
from dualteacher.core.upsampling import stripes
from dualteacher.core.upsampling.class_sums import class_sums
from dualteacher.methods.base import by_group
from dualteacher.system.errors import UserError
from dualteacher.workflow import presets

from .conftest import ROOT, toy_settings
from .test_methods import student_of

WEIGHTS = torch.tensor([0.5, 1.0, 4.0, 2.0, 1.0])


def example(dtype=torch.float32, size=(32, 24), absent=4):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 5, 8, 6, generator=generator, dtype=dtype)
    label = torch.randint(0, 5, (2, *size), generator=generator)
    label[label == absent] = 255
    label[:, :4] = 255
    return logits, label


def enlarged(logits, label):
    return F.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False)


def plain_focal(logits, label, gamma, weights=None):
    entropy = F.cross_entropy(enlarged(logits, label), label, ignore_index=255, reduction="none")[label != 255]
    weight = torch.ones_like(entropy) if weights is None else weights[label[label != 255]]
    return (weight * (1 - (-entropy).exp()) ** gamma * entropy).sum() / weight.sum()


def plain_tversky(logits, label, alpha, beta):
    probability = enlarged(logits, label).softmax(1).movedim(1, -1)[label != 255]
    truth = label[label != 255]
    scores = []
    for c in truth.unique():
        p, y = probability[:, c], (truth == c).to(probability.dtype)
        hit, more, missed = (p * y).sum(), (p * (1 - y)).sum(), ((1 - p) * y).sum()
        scores.append(1 - hit / (hit + alpha * more + beta * missed))
    return torch.stack(scores).mean()


TERMS = {
    "focal": (losses.focal_loss, plain_focal, {"gamma": 2.0}),
    "focal, γ = 0": (losses.focal_loss, plain_focal, {"gamma": 0.0}),
    "focal, γ = ½": (losses.focal_loss, plain_focal, {"gamma": 0.5}),
    "focal, weighted": (losses.focal_loss, plain_focal, {"gamma": 2.0, "weights": WEIGHTS}),
    "dice": (losses.tversky_loss, plain_tversky, {"alpha": 0.5, "beta": 0.5}),
    "tversky": (losses.tversky_loss, plain_tversky, {"alpha": 0.3, "beta": 0.7}),
    "recall": (losses.tversky_loss, plain_tversky, {"alpha": 0.0, "beta": 1.0}),
}  # fmt: skip


@pytest.mark.parametrize("size", [(32, 24), (33, 20)], ids=["whole ratio", "any ratio"])
@pytest.mark.parametrize("budget", [300, 10**6], ids=["many stripes", "one stripe"])
@pytest.mark.parametrize("term", TERMS)
def test_value_and_gradient(term, budget, size, monkeypatch):
    monkeypatch.setattr(stripes, "STRIPE_ELEMENTS_CPU", budget)
    ours, theirs, options = TERMS[term]
    logits, label = example(size=size)
    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found, expected = ours(x, label, **options), theirs(y, label, **options)
    (0.3 * found).backward()
    (0.3 * expected).backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-5 * float(y.grad.abs().max()))


def test_focal_without_a_power_is_cross_entropy():
    logits, label = example()
    torch.testing.assert_close(losses.focal_loss(logits, label, 0.0), losses.supervised_loss(logits, label))


def test_gradcheck():
    logits, label = example(torch.float64)
    for term, options in ((losses.focal_loss, {"gamma": 1.5}), (losses.tversky_loss, {"alpha": 0.3, "beta": 0.7})):
        assert gradcheck(lambda x: term(x[:1], label[:1], **options), [logits.clone().requires_grad_()])  # noqa: B023


@pytest.mark.parametrize("term", TERMS)
def test_all_pixels_ignored(term):
    logits, label = example()
    logits.requires_grad_()
    loss = TERMS[term][0](logits, torch.full_like(label, 255), **TERMS[term][2])
    loss.backward()
    assert loss == 0 and logits.grad.abs().max() == 0


@pytest.mark.parametrize("term", TERMS)
def test_certain_pixels_right_and_wrong(term):
    """Probabilities of exactly 1 and 0: no gradient is NaN, and the loss is finite."""
    logits = torch.full((1, 5, 4, 4), -1e4)
    logits[:, 2] = 1e4
    label = torch.full((1, 16, 16), 2)
    for wrong in (0, 100):
        label.view(-1)[:wrong] = 1
        x = logits.clone().requires_grad_()
        loss = TERMS[term][0](x, label, **TERMS[term][2])
        loss.backward()
        assert loss.isfinite() and x.grad.isfinite().all() and (loss > 0) == (wrong > 0)


@pytest.mark.parametrize("term", TERMS)
def test_bfloat16_logits_give_a_float32_loss_and_bfloat16_gradients(term):
    logits, label = example()
    low = logits.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = TERMS[term][0](low, label, **TERMS[term][2])
    loss.backward()
    exact = low.detach().float().requires_grad_()
    expected = TERMS[term][1](exact, label, **TERMS[term][2])
    expected.backward()
    assert loss.dtype == torch.float32 and low.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(low.grad.float(), exact.grad, rtol=1e-2, atol=1e-2 * float(exact.grad.abs().max()))


def test_a_group_has_its_own_classes_and_sums():
    logits, label = example()
    label[0][label[0] == 1] = 255
    terms = losses.on_labelled(toy_settings(loss={"terms": ["dice", "focal"]}).loss)
    found = by_group(2, terms, logits, label)
    halves = [
        plain_tversky(logits[i : i + 1], label[i : i + 1], 0.5, 0.5)
        + plain_focal(logits[i : i + 1], label[i : i + 1], 2.0)
        for i in range(2)
    ]
    torch.testing.assert_close(found, sum(halves) / 2)


def test_class_sums_refuse_a_label_that_is_no_class():
    logits, label = example()
    label[1, 31, 20] = 5
    with pytest.raises((IndexError, RuntimeError)):
        class_sums(logits, label)


ALL = {"terms": ["cross_entropy", "focal", "dice", "tversky"], "class_weights": [0.2, 1.0, 5.0]}


@pytest.mark.parametrize("name", ["supervised", "dual_teacher", "fixmatch", "unimatch", "cps"])
def test_every_method_adds_the_terms(name):
    settings = toy_settings(loss=ALL)
    method = methods.build(name, settings, student_of(settings))
    logits, label = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 32, 32))
    weights = torch.tensor(ALL["class_weights"])
    expected = (
        losses.supervised_loss(logits, label, weights) + plain_focal(logits, label, 2.0, weights)
        + plain_tversky(logits, label, 0.5, 0.5) + plain_tversky(logits, label, 0.3, 0.7)
    )  # fmt: skip
    torch.testing.assert_close(method.supervised_loss(logits, label), expected)


def test_no_term_waits_for_the_device():
    """On fake tensors any .item(), bool() or data-dependent shape raises."""
    terms = losses.on_labelled(toy_settings(loss=ALL).loss, torch.tensor(ALL["class_weights"], device="meta"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = torch.empty(2, 3, 8, 8, device="meta", requires_grad=True)
        loss = terms(logits, torch.empty(2, 32, 32, dtype=torch.int64, device="meta"))
        loss.backward()
        assert loss.shape == () and logits.grad.shape == logits.shape


def test_default_is_the_cross_entropy_itself():
    assert losses.on_labelled(toy_settings().loss) is losses.supervised_loss
    assert presets.load("base", ROOT / "presets")["loss"]["terms"] == ["cross_entropy"]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"terms": []}, "loss.terms = .*at least 1"),
        ({"terms": ["dice", "dice"]}, "loss.terms contains a duplicate"),
        ({"terms": ["ohem", "cross_entropy"]}, "choose one of them"),
        ({"terms": ["lovasz"]}, "'dice'"),
        ({"tversky_beta": 0.0}, "loss.tversky_beta = 0.0: .*greater than 0"),
        ({"supervised": "ohem"}, "unknown key 'loss.supervised'.*terms"),
    ],
)
def test_wrong_settings_are_one_line(loss, expected):
    with pytest.raises(UserError, match=expected) as caught:
        toy_settings(loss=loss)
    assert "\n" not in str(caught.value)
