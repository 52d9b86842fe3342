"""The striped sweep equals interpolate + cross_entropy for any size, class count and type."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from dualteacher import upsampling

SHAPES = [  # B, C, h, w, H, W
    (2, 5, 8, 8, 32, 32),
    (3, 11, 12, 16, 48, 64),
    (1, 2, 1, 1, 7, 5),
    (2, 3, 9, 5, 33, 21),
    (1, 150, 16, 16, 64, 64),
    (2, 4, 16, 16, 16, 16),  # no scaling
    (1, 3, 20, 30, 13, 11),  # downwards
]


@pytest.fixture(params=[64, 4096, 320_000], ids=["one row a stripe", "some rows", "some images"])
def budget(request, monkeypatch):
    monkeypatch.setattr(upsampling, "STRIPE_ELEMENTS_CPU", request.param)


def reference(logits, label, weight):
    up = F.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False)
    entropy = F.cross_entropy(up, label, ignore_index=255, reduction="none")
    return (entropy * weight).sum(), (entropy > 0).sum()


def example(shape, dtype=torch.float32, seed=0):
    batch, classes, h, w, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(batch, classes, h, w, generator=generator, dtype=dtype)
    label = torch.randint(0, classes, (batch, height, width), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.2] = 255
    weight = torch.rand(label.shape, generator=generator, dtype=dtype)
    return logits, label, weight


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy_and_gradient(shape):
    logits, label, weight = example(shape)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    total, positive = upsampling.cross_entropy_sum(ours, label, weight)
    expected, expected_positive = reference(theirs, label, weight)
    (0.3 * total).backward()
    (0.3 * expected).backward()
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-4)
    assert positive == expected_positive
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5 * float(theirs.grad.abs().max()))


@pytest.mark.usefixtures("budget")
def test_gradcheck():
    logits, label, weight = example((2, 3, 4, 5, 11, 9), torch.float64)
    assert gradcheck(
        lambda x: upsampling.cross_entropy_sum(x, label, weight)[0], [logits.requires_grad_()], raise_exception=True
    )


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_label_and_confidence(shape):
    logits, label, _ = example(shape)
    size = label.shape[1:]
    probability = F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(1)
    confidence, expected = probability.max(1)
    found, found_confidence = upsampling.label_and_confidence(logits, size)
    torch.testing.assert_close(found_confidence, confidence, rtol=1e-5, atol=1e-6)
    # where two classes are closer than rounding, either is right
    near = probability.gather(1, found[:, None])[:, 0]
    torch.testing.assert_close(near, confidence, rtol=1e-4, atol=1e-6)
    assert (found == expected).float().mean() > 0.999
    assert torch.equal(upsampling.argmax(logits, size), found)


def test_all_pixels_ignored():
    logits, label, _ = example((1, 3, 4, 4, 8, 8))
    logits.requires_grad_()
    total, positive = upsampling.cross_entropy_sum(logits, torch.full_like(label, 255))
    total.backward()
    assert total == 0 and positive == 0 and logits.grad.abs().max() == 0


def test_bfloat16_logits_give_float32_sums_and_bfloat16_gradients():
    logits, label, weight = example((2, 5, 8, 8, 32, 32))
    low = logits.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = upsampling.cross_entropy_sum(low, label, weight)
    total.backward()
    exact = low.detach().float().requires_grad_()
    expected, _ = upsampling.cross_entropy_sum(exact, label, weight)
    expected.backward()
    assert total.dtype == torch.float32 and low.grad.dtype == torch.bfloat16
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(low.grad.float(), exact.grad, rtol=1e-2, atol=1e-3)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[[[1e4]], [[-1e4]], [[0.0]]]]).expand(1, 3, 2, 2).clone().requires_grad_()
    label = torch.ones((1, 8, 8), dtype=torch.int64)
    total, _ = upsampling.cross_entropy_sum(logits, label)
    total.backward()
    assert total.item() == pytest.approx(64 * 2e4, rel=1e-5) and logits.grad.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 5), classes=st.integers(1, 40), h=st.integers(1, 40), height=st.integers(1, 90),
    width=st.integers(1, 90), budget=st.sampled_from([1, 100, 5000, 320_000]),
)  # fmt: skip
def test_plan_covers_every_pixel_once_and_reads_what_it_needs(batch, classes, h, height, width, budget):
    old, upsampling.STRIPE_ELEMENTS_CPU = upsampling.STRIPE_ELEMENTS_CPU, budget
    try:
        stripes = list(upsampling.plan(batch, classes, h, (height, width), torch.device("cpu")))
    finally:
        upsampling.STRIPE_ELEMENTS_CPU = old
    seen = torch.zeros(batch, height, dtype=torch.int64)
    rows = upsampling.interpolation_matrix(height, h, torch.device("cpu"), torch.float32)
    for s in stripes:
        seen[s.first : s.last, s.top : s.bottom] += 1
        outside = rows[s.top : s.bottom].clone()
        outside[:, s.low : s.high] = 0
        assert outside.abs().sum() < 1e-5  # no weight is left out, but for rounding
    assert (seen == 1).all()


def test_memory_stays_a_stripe():
    """The full-resolution logits would be 150 times the label's size; the sweep's largest tensor is not."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            out = function(*arguments, **(keywords or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    logits, label, weight = example((4, 150, 32, 32, 128, 128))
    logits.requires_grad_()
    with Watch():
        upsampling.cross_entropy_sum(logits, label, weight)[0].backward()
    assert largest <= max(2 * upsampling.STRIPE_ELEMENTS_CPU, 2 * logits.numel()) < 4 * 150 * 128 * 128
