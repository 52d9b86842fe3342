"""The sweeps equal interpolate + cross_entropy for any size, class count and type: the CPU's own, and by stripes."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from dualteacher.core import upsampling
from dualteacher.core.upsampling import numba_kernels, stripes
from dualteacher.core.upsampling.class_sums import class_sums

SHAPES = [  # B, C, h, w, H, W
    (2, 5, 8, 8, 32, 32),
    (3, 11, 12, 16, 48, 64),
    (1, 2, 1, 1, 7, 5),
    (2, 3, 9, 5, 33, 21),
    (1, 150, 16, 16, 64, 64),
    (2, 4, 16, 16, 16, 16),  # no scaling
    (1, 3, 20, 30, 13, 11),  # downwards
    (2, 17, 40, 3, 320, 12),  # more rows than a thread takes at once, eight between two
]


@pytest.fixture(params=[0, 64, 4096, 320_000], ids=["compiled", "one row a stripe", "some rows", "some images"])
def sweep(request, monkeypatch):
    """The CPU's own sweep, or stripes of some size, as a GPU has them."""
    if request.param:
        monkeypatch.setattr(upsampling, "for_kernels", lambda logits: False)
        monkeypatch.setattr(stripes, "STRIPE_ELEMENTS_CPU", request.param)


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


@pytest.mark.usefixtures("sweep")
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


@pytest.mark.usefixtures("sweep")
def test_gradcheck():
    logits, label, weight = example((2, 3, 4, 5, 11, 9), torch.float64)
    assert gradcheck(
        lambda x: upsampling.cross_entropy_sum(x, label, weight)[0], [logits.requires_grad_()], raise_exception=True
    )


@pytest.mark.usefixtures("sweep")
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


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize("classes", [3, 40], ids=lambda classes: f"{classes} classes")
@pytest.mark.parametrize("rounded", [False, True], ids=["", "rounded"])
@pytest.mark.parametrize("coarse", [2, 5, 24], ids=lambda coarse: f"{coarse} regions a side")
def test_argmax_is_the_label_wherever_few_or_many_classes_compete(coarse, rounded, classes):
    """From regions, between whose corners only a class or two can be largest, to noise, where most can; and ties."""
    noise = torch.randn((2, classes, coarse, coarse), generator=torch.Generator().manual_seed(0))
    logits = F.interpolate(noise, (24, 24), mode="bilinear", align_corners=False)
    logits = logits.mul(2).round() if rounded else logits
    for size in ((96, 90), (24, 24), (17, 31)):
        assert torch.equal(upsampling.argmax(logits, size), upsampling.label_and_confidence(logits, size)[0])


@pytest.mark.usefixtures("sweep")
def test_cross_entropy_map():
    logits, label, _ = example((2, 5, 8, 8, 32, 32))
    up = F.interpolate(logits, (32, 32), mode="bilinear", align_corners=False)
    expected = F.cross_entropy(up, label, ignore_index=255, reduction="none")
    torch.testing.assert_close(upsampling.cross_entropy_map(logits, label), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("sweep")
def test_certain_pixels_do_not_count_as_positive():
    """As in float32 cross entropy, a class with all of the probability has CE 0, not almost 0."""
    logits = torch.zeros(1, 4, 8, 8)
    logits[:, 2] = torch.linspace(10, 24, 64).view(8, 8)
    label = torch.full((1, 32, 32), 2)
    _, positive = upsampling.cross_entropy_sum(logits, label)
    _, expected = reference(logits, label, torch.ones(1, 32, 32))
    assert 0 < expected < 32 * 32 and abs(positive - expected) <= 8  # a pixel's sum may round either way


@pytest.mark.usefixtures("sweep")
def test_far_apart_logits_at_neighbouring_pixels():
    """Where two neighbours are certain of two classes, a third wins between them: 2^x must not vanish."""
    logits = torch.zeros(1, 3, 1, 2)
    logits[0, :, 0, 0], logits[0, :, 0, 1] = torch.tensor([900.0, 0, 800]), torch.tensor([0.0, 900, 800])
    label = torch.tensor([[[0, 0, 0, 1, 1, 1, 1, 2]]])
    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    total, _ = upsampling.cross_entropy_sum(x, label)
    expected, _ = reference(y, label, 1.0)
    total.backward()
    expected.backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(x.grad, y.grad)
    found, confidence = upsampling.label_and_confidence(logits, (1, 8))
    assert found.flatten().tolist() == [0, 0, 2, 2, 2, 2, 1, 1] and confidence.isfinite().all()


@pytest.mark.usefixtures("sweep")
def test_equal_logits_give_the_first_class():
    logits = torch.zeros(1, 300, 2, 2)
    logits[:, 260:] = 1e-20
    assert (upsampling.argmax(logits, (8, 8)) == 260).all()
    assert (upsampling.argmax(torch.zeros(1, 300, 2, 2), (5, 5)) == 0).all()
    assert (upsampling.argmax(torch.tensor([-0.0, 0.0]).view(1, 2, 1, 1), (4, 4)) == 0).all()


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize("scale", [10, 30, 100])
def test_cross_entropy_is_never_negative_and_all_but_never_positive_where_torchs_is_zero(scale):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(2, 21, 32, 32, generator=generator)
    up = F.interpolate(logits, (128, 128), mode="bilinear", align_corners=False)
    label = up.argmax(1)
    entropy = upsampling.cross_entropy_map(logits, label)
    theirs = F.cross_entropy(up, label, reduction="none")
    assert entropy.min() >= 0
    assert ((entropy > 0) & (theirs == 0)).float().mean() < 0.01


@pytest.mark.usefixtures("sweep")
def test_corners_further_apart_than_any_padding():
    logits = torch.tensor([[0.0, -1e31], [-1e31, 0.0], [-1e31, -1.2e31]]).view(1, 3, 1, 2).requires_grad_()
    label = torch.tensor([[[0, 0, 1, 1]]])
    total, _ = upsampling.cross_entropy_sum(logits, label)
    total.backward()
    assert total == 0 and logits.grad.abs().max() < 1e-30
    found, confidence = upsampling.label_and_confidence(logits, (1, 4))
    assert torch.equal(found, label) and (confidence == 1).all()


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8)])
def test_labels_of_another_number_of_images_are_refused(shape):
    with pytest.raises((ValueError, IndexError)):
        upsampling.cross_entropy_map(torch.zeros(2, 4, 2, 2), torch.zeros(shape, dtype=torch.int64))


def test_without_pixels_there_are_no_labels():
    for shape in ((1, 3, 0, 4), (1, 3, 4, 0), (1, 0, 4, 4)):
        with pytest.raises(ValueError):
            upsampling.argmax(torch.zeros(shape), (8, 8))


FAULTS = [OSError(28, "No space left on device"), EOFError("Ran out of input"), AttributeError("a renamed class")]


@pytest.mark.parametrize("error", FAULTS)
def test_code_that_cannot_be_kept_is_compiled_anew(error, monkeypatch):
    def fail(self, *arguments):
        raise error

    monkeypatch.setattr("numba.core.caching.Cache.load_overload", fail)
    monkeypatch.setattr("numba.core.caching.Cache.save_overload", fail)
    twice = numba_kernels.jit(lambda x: 2 * x)
    assert twice(4) == 8


@pytest.mark.usefixtures("sweep")
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


@pytest.mark.usefixtures("sweep")
def test_extreme_logits_stay_finite():
    logits = torch.tensor([[[[1e4]], [[-1e4]], [[0.0]]]]).expand(1, 3, 2, 2).clone().requires_grad_()
    label = torch.ones((1, 8, 8), dtype=torch.int64)
    total, _ = upsampling.cross_entropy_sum(logits, label)
    total.backward()
    assert total.item() == pytest.approx(64 * 2e4, rel=1e-5) and logits.grad.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 4), classes=st.integers(1, 9), h=st.integers(1, 12), w=st.integers(1, 12),
    rise=st.integers(1, 5), widen=st.integers(1, 5), more=st.integers(0, 7), budget=st.sampled_from([1, 100, 5000]),
)  # fmt: skip
def test_stripes_put_together_are_the_interpolated_logits_and_their_adjoint(
    batch, classes, h, w, rise, widen, more, budget
):
    """`more` = 0 gives whole ratios (lerp of phases), other values any ratio (matrices)."""
    size = (h * rise + more, w * widen + more)
    logits = torch.randn(batch, classes, h, w, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(batch, classes, *size, dtype=torch.float64)
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    expected.backward(slope)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stripes, "STRIPE_ELEMENTS_CPU", budget)
        upsampler = stripes.upsampler(logits.detach(), size, gradient=True)
    pieces = [upsampler.split(slope[:, c]) for c in range(classes)]
    slopes, found = torch.cat(pieces, stripes.CLASSES), torch.full_like(torch.cat(pieces, stripes.CLASSES), torch.nan)
    seen = torch.zeros_like(pieces[0])
    for stripe in upsampler.stripes():
        found[stripe.where] = upsampler.read(stripe)
        upsampler.write(stripe, slopes[stripe.where])
        seen[stripe.where] += 1
    assert (seen == 1).all()
    whole = torch.stack([upsampler.join(part) for part in found.split(1, stripes.CLASSES)], 1)
    # torch finds the source positions in float32
    torch.testing.assert_close(whole, expected.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(upsampler.gradient, logits.grad, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3), classes=st.integers(1, 40), h=st.integers(1, 40), w=st.integers(1, 9),
    height=st.integers(1, 90), width=st.integers(1, 40), spread=st.sampled_from([0.1, 4.0, 300.0]),
)  # fmt: skip
def test_the_compiled_sweep_for_any_shape(batch, classes, h, w, height, width, spread):
    logits, label, weight = example((batch, classes, h, w, height, width))
    logits = logits * spread
    label[(label + 1) % 7 == 0] = 255
    weight[weight < 0.3] = 0
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    total, _ = upsampling.cross_entropy_sum(ours, label, weight)
    expected, _ = reference(theirs, label, weight)
    total.backward()
    expected.backward()
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4 * spread)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4 * max(1, spread))
    up = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
    found, confidence = upsampling.label_and_confidence(logits, (height, width))
    near = up.gather(1, found[:, None])[:, 0]
    torch.testing.assert_close(near, up.amax(1), rtol=1e-5, atol=1e-5 * spread)
    torch.testing.assert_close(confidence, up.softmax(1).amax(1), rtol=1e-3, atol=1e-3 * max(1, spread / 4))
    near = up.gather(1, upsampling.argmax(logits, (height, width))[:, None])[:, 0]
    torch.testing.assert_close(near, up.amax(1), rtol=1e-5, atol=1e-5 * spread)


def test_the_compiled_sweep_gives_the_same_bytes_whatever_the_number_of_threads():
    logits, label, weight = example((3, 20, 40, 12, 160, 48))
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            x = logits.clone().requires_grad_()
            total, _ = upsampling.cross_entropy_sum(x, label, weight)
            total.backward()
            results.append([total.detach(), x.grad, *upsampling.label_and_confidence(logits, (160, 48))])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_what_is_no_number_is_not_hidden(strange):
    logits, label, _ = example((2, 5, 8, 8, 32, 32))
    logits[1, 2, 3, 3] = strange
    assert not upsampling.cross_entropy_sum(logits, label)[0].isfinite()
    found, confidence = upsampling.label_and_confidence(logits.fill_(torch.nan), (32, 32))
    assert found.min() >= 0 and found.max() < 5 and confidence.isnan().all()
    assert upsampling.argmax(logits, (32, 32)).max() < 5


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize("strange", [5, -1, 254])
def test_a_label_that_is_no_class_is_refused(strange):
    logits, label, weight = example((2, 5, 8, 8, 32, 32))
    label[1, 31, 31] = strange
    with pytest.raises((IndexError, RuntimeError)):
        upsampling.cross_entropy_sum(logits.requires_grad_(), label, weight)


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize("size", [(40, 60), (20, 31), (21, 30), (320, 300)])
def test_enlarging_is_interpolation(size):
    images = torch.rand(2, 3, 20, 30)
    expected = F.interpolate(images, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsampling.enlarge(images, size), expected)


TASKS = {
    "loss": lambda logits, label, weight: upsampling.cross_entropy_sum(logits, label, weight)[0].backward(),
    "entropies": lambda logits, label, _: upsampling.cross_entropy_map(logits, label),
    "label and confidence": lambda logits, label, _: upsampling.label_and_confidence(logits, label.shape[1:]),
    "class sums": lambda logits, label, _: sum(class_sums(logits, label)).sum().backward(),
    "argmax": lambda logits, label, _: upsampling.argmax(logits, label.shape[1:]),
}


def task(what, size):
    """Logits of 150 classes, and one of TASKS on them at an image's size."""
    logits, label, weight = example((4, 150, 32, 32, *size))
    logits.requires_grad_()
    return logits, lambda: TASKS[what](logits, label, weight)


@pytest.mark.parametrize("what", TASKS)
def test_the_compiled_sweep_needs_little_memory(what):
    logits, run = task(what, (128, 128))
    run()
    tracemalloc.start()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # what is handed around; a band's scratch inside the compiled code is not traced
    assert peak < 2 * 4 * logits.numel()


@pytest.mark.parametrize("size", [(128, 128), (130, 127)], ids=["whole ratio", "any ratio"])
@pytest.mark.parametrize("what", TASKS)
def test_memory_stays_a_stripe(what, size, monkeypatch):
    """The full-resolution logits would be 150 times the label's size; the sweep's largest tensor is not."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            out = function(*arguments, **(keywords or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    logits, run = task(what, size)
    monkeypatch.setattr(upsampling, "for_kernels", lambda logits: False)
    with Watch():
        run()
    assert largest <= max(2 * stripes.STRIPE_ELEMENTS_CPU, 2 * logits.numel()) < 4 * 150 * 128 * 128
