"""The Triton kernels equal interpolate + cross_entropy + softmax, in Triton's interpreter or on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from dualteacher.core import losses, upsampling

from . import test_golden

gpu = pytest.importorskip("dualteacher.core.upsampling.gpu", reason="needs Triton")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")

ROOT = Path(__file__).parents[2]

INTERPRETED = pytest.param(
    "cpu", id="interpreter", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles here")
)
DEVICES = [INTERPRETED, pytest.param("cuda", marks=pytest.mark.gpu)]

SHAPES = [  # B, C, h, w, H, W
    (2, 5, 6, 8, 24, 32),
    (1, 2, 1, 1, 7, 5),
    (2, 3, 5, 3, 19, 13),
    (3, 4, 9, 9, 9, 9),  # no scaling
    (1, 3, 7, 9, 5, 4),  # downwards
    (1, 9, 6, 4, 5, 11),  # down and up
    (1, 3, 2, 2, 18, 10),  # cells of more pixels than a program takes
    (1, 2, 17, 33, 18, 34),  # more rows and columns than a program takes
    (1, 21, 3, 4, 12, 16),
    (1, 150, 3, 3, 12, 11),
    (1, 300, 2, 2, 6, 5),
]


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    """Where the kernels run; the door is forced open for them. Wide blocks, as the interpreter is slow by the call."""
    monkeypatch.setattr(upsampling, "for_triton", lambda logits: True)
    if request.param == "cpu":
        monkeypatch.setattr(gpu, "CLASSES", 64)
    return request.param


def example(shape, dtype=torch.float32, seed=0):
    batch, classes, h, w, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    logits = (4 * torch.randn(batch, classes, h, w, generator=generator)).to(dtype)
    label = torch.randint(0, classes, (batch, height, width), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.2] = 255
    return logits, label, torch.rand(label.shape, generator=generator)


def plain(logits, label, weight):
    """Σ weight · CE, count of CE > 0, CE map and gradient by torch, in float64; the count is float32's.

    The kernels' positions are exact: torch's float32 ones cost it 5e-6 of the gradient where H / h is 18 / 17.
    """
    logits = logits.detach().clone().double().requires_grad_()

    def entropies(logits):
        up = F.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False)
        return F.cross_entropy(up, label, ignore_index=255, reduction="none")

    entropy = entropies(logits)
    total = (entropy * weight).sum()
    (gradient,) = torch.autograd.grad(total, logits)
    positive = (entropies(logits.detach().float()) > 0).sum()
    return total.detach().float(), positive, entropy.detach().float(), gradient.float()


def ours(logits, label, weight, device):
    # a copy that keeps the strides, channels-last or not
    logits = logits.detach().to(device, copy=True).requires_grad_()
    weight = weight.to(device) if isinstance(weight, torch.Tensor) else weight
    total, positive = upsampling.cross_entropy_sum(logits, label.to(device), weight)
    total.backward()
    return total.detach().cpu(), positive.cpu(), logits.grad.cpu()


def close(found, expected, relative):
    """Equal to a share of the largest element."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= relative * expected.abs().max()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy_and_gradient(shape, device):
    logits, label, weight = example(shape)
    total, positive, gradient = ours(logits, label, weight, device)
    expected, expected_positive, _, expected_gradient = plain(logits, label, weight)
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-6)
    assert positive == expected_positive
    close(gradient, expected_gradient, 2e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_labels_and_map(shape, device):
    logits, label, _ = example(shape)
    up = F.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False)
    confidence, expected = up.softmax(1).max(1)
    found, sure = (x.cpu() for x in upsampling.label_and_confidence(logits.to(device), label.shape[1:]))
    torch.testing.assert_close(sure, confidence, rtol=1e-5, atol=1e-6)
    assert found.dtype == torch.int64 and torch.equal(found, expected)
    assert torch.equal(upsampling.argmax(logits.to(device), label.shape[1:]).cpu(), found)
    entropy = upsampling.cross_entropy_map(logits.to(device), label.to(device)).cpu()
    _, _, expected, _ = plain(logits, label, torch.ones(label.shape))
    torch.testing.assert_close(entropy, expected, rtol=2e-6, atol=1e-5)


@pytest.mark.slow
@settings(max_examples=5)
@given(
    batch=st.integers(1, 3), classes=st.integers(1, 12), h=st.integers(1, 7), w=st.integers(1, 7),
    height=st.integers(1, 20), width=st.integers(1, 20), spread=st.sampled_from([0.1, 4.0, 100.0]),
)  # fmt: skip
@pytest.mark.parametrize("where", DEVICES)
def test_any_shape(where, batch, classes, h, w, height, width, spread):
    logits, label, weight = example((batch, classes, h, w, height, width))
    logits = logits * spread
    weight[weight < 0.3] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampling, "for_triton", lambda logits: True)
        total, _, gradient = ours(logits, label, weight, where)
        found = upsampling.argmax(logits.to(where), (height, width)).cpu()
    expected, _, _, expected_gradient = plain(logits, label, weight)
    torch.testing.assert_close(total, expected, rtol=2e-6, atol=1e-5 * spread)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=2e-5 * max(1, spread))
    up = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
    torch.testing.assert_close(up.gather(1, found[:, None])[:, 0], up.amax(1), rtol=1e-5, atol=1e-5 * spread)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_short_logits_are_summed_in_float32(dtype, device):
    logits, label, weight = example((2, 5, 4, 5, 16, 20), dtype)
    total, positive, gradient = ours(logits, label, weight, device)
    expected, expected_positive, entropy, expected_gradient = plain(logits, label, weight)
    assert total.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    assert positive == expected_positive
    torch.testing.assert_close(gradient, expected_gradient.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    found = upsampling.cross_entropy_map(logits.to(device), label.to(device))
    torch.testing.assert_close(found.cpu(), entropy, rtol=2e-6, atol=1e-5)


def test_strides_change_no_bit(device):
    """Channels-last, a slice of a larger tensor, and weights that are expanded."""
    logits, label, _ = example((2, 5, 4, 5, 16, 20))
    weight = torch.tensor([0.3, 0.7]).view(2, 1, 1)
    total, _, gradient = ours(logits, label, weight.expand(label.shape).contiguous(), device)
    larger = torch.zeros(2, 7, 6, 9)
    larger[:, 1:6, 1:5, 2:7] = logits
    for other in (logits.contiguous(memory_format=torch.channels_last), larger[:, 1:6, 1:5, 2:7]):
        other_total, _, other_gradient = ours(other, label, weight, device)
        assert torch.equal(other_total, total) and torch.equal(other_gradient, gradient)
    narrow = ours(logits, label.to(torch.uint8), weight, device)
    assert torch.equal(narrow[0], total) and torch.equal(narrow[2], gradient)


@pytest.mark.slow
def test_blocks_are_no_part_of_the_result(device, monkeypatch):
    """Classes in blocks of any number, with a last one that is not full."""
    logits, label, weight = example((1, 21, 3, 4, 12, 16))
    _, _, expected, expected_gradient = plain(logits, label, weight)
    for classes in (4, 8, 32):
        monkeypatch.setattr(gpu, "CLASSES", classes)
        close(ours(logits, label, weight, device)[2], expected_gradient, 2e-6)
        entropy = upsampling.cross_entropy_map(logits.to(device), label.to(device))
        torch.testing.assert_close(entropy.cpu(), expected, rtol=2e-6, atol=1e-5)


def test_two_runs_give_the_same_bits(device):
    logits, label, weight = example((2, 5, 4, 3, 15, 11))
    first, second = ours(logits, label, weight, device), ours(logits, label, weight, device)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_nothing_counts(device):
    logits, label, weight = example((2, 3, 4, 4, 12, 12))
    total, positive, gradient = ours(logits, torch.full_like(label, 255), weight, device)
    assert total == 0 and positive == 0 and gradient.abs().max() == 0
    total, positive, gradient = ours(logits, label, 0.0, device)
    assert total == 0 and positive == (label != 255).sum() and gradient.abs().max() == 0


def test_a_certain_class_has_no_entropy(device):
    """CE is exactly 0 where a class has all of the probability in float32, and precise just above."""
    logits = torch.zeros(1, 4, 8, 8)
    logits[:, 2] = torch.linspace(10, 24, 64).view(8, 8)
    label = torch.full((1, 16, 16), 2)
    _, positive, _ = ours(logits, label, 1.0, device)
    _, expected, entropy, _ = plain(logits, label, torch.ones(label.shape))
    assert 0 < expected < 16 * 16 and abs(positive - expected) <= 4  # a sum may round either way
    found = upsampling.cross_entropy_map(logits.to(device), label.to(device)).cpu()
    assert found.min() == 0
    torch.testing.assert_close(found, entropy, rtol=1e-5, atol=2.0**-23)


def test_extreme_and_equal_logits(device):
    far = torch.zeros(1, 3, 1, 2)
    far[0, :, 0, 0], far[0, :, 0, 1] = torch.tensor([900.0, 0, 800]), torch.tensor([0.0, 900, 800])
    label = torch.tensor([[[0, 0, 0, 1, 1, 1, 1, 2]]])
    total, _, gradient = ours(far, label, 1.0, device)
    expected, _, _, expected_gradient = plain(far, label, torch.ones(label.shape))
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    found, confidence = upsampling.label_and_confidence(far.to(device), (1, 8))
    assert found.flatten().tolist() == [0, 0, 2, 2, 2, 2, 1, 1] and confidence.isfinite().all()
    apart = torch.tensor([[0.0, -1e31], [-1e31, 0.0], [-1e31, -1.2e31]]).view(1, 3, 1, 2)
    total, _, gradient = ours(apart, torch.tensor([[[0, 0, 1, 1]]]), 1.0, device)
    assert total == 0 and gradient.abs().max() == 0
    equal = torch.zeros(1, 300, 2, 2, device=device)
    assert (upsampling.argmax(equal, (5, 5)) == 0).all()
    equal[:, 260:] = 1e-20
    assert (upsampling.argmax(equal, (8, 8)) == 260).all()


@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_what_is_no_number_is_not_hidden(strange, device):
    logits, label, weight = example((2, 5, 4, 4, 16, 16))
    logits[1, 2, 2, 2] = strange
    assert not ours(logits, label, weight, device)[0].isfinite()
    found, confidence = upsampling.label_and_confidence(logits.fill_(torch.nan).to(device), (16, 16))
    assert found.min() >= 0 and found.max() < 5 and confidence.isnan().all()


@pytest.mark.parametrize("strange", [5, -1, 254])
def test_a_label_that_is_no_class_makes_the_loss_nan(strange, device):
    logits, label, weight = example((2, 5, 4, 4, 16, 16))
    label[1, 15, 15] = strange
    assert ours(logits, label, weight, device)[0].isnan()


def test_shapes_that_do_not_fit_are_refused(device):
    for shape in ((3, 8, 8), (1, 8, 8)):
        with pytest.raises(ValueError, match="do not fit"):
            upsampling.cross_entropy_map(
                torch.zeros(2, 4, 2, 2, device=device), torch.zeros(shape, device=device).long()
            )
    for shape in ((1, 3, 0, 4), (1, 3, 4, 0), (1, 0, 4, 4)):
        with pytest.raises(ValueError, match="cannot upsample"):
            upsampling.argmax(torch.zeros(shape, device=device), (8, 8))


GOLDEN = {
    "supervised": ("supervised", losses.supervised_loss, ["label_ignore"], None),
} | {
    f"{name} {threshold}": (
        name, getattr(losses, f"{name}_loss"), ["teacher_label", "teacher_confidence"], threshold,
    )
    for name, threshold in (("consistency", 0.95), ("cutmix", 0.5))
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", GOLDEN)
def test_golden_losses(case, device):
    name, function, inputs, threshold = GOLDEN[case]
    arguments = [test_golden.tensor(each).to(device) for each in inputs]
    suffix = "" if threshold is None else f"_{threshold}"
    logits = test_golden.tensor("student_logits").to(device).requires_grad_()
    loss = function(logits, *arguments, *([] if threshold is None else [threshold]))
    loss.backward()
    assert loss.item() == pytest.approx(float(test_golden.GOLDEN[f"{name}_loss{suffix}"]), abs=1e-6)
    close(logits.grad.cpu(), test_golden.tensor(f"{name}_grad{suffix}"), 5e-6)


def test_golden_pseudo_labels(device):
    label, confidence = losses.pseudo_label(test_golden.tensor("teacher_logits").to(device), (48, 64))
    assert torch.equal(label.cpu(), test_golden.tensor("teacher_label"))
    torch.testing.assert_close(confidence.cpu(), test_golden.tensor("teacher_confidence"), rtol=0, atol=1e-6)


def test_hard_examples(device):
    logits, label, _ = example((2, 5, 4, 4, 16, 16))
    found = losses.ohem_loss(logits.to(device), label.to(device), 0.3, 50).cpu()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampling, "for_triton", lambda logits: False)
        torch.testing.assert_close(found, losses.ohem_loss(logits, label, 0.3, 50), rtol=1e-6, atol=0)


def all_losses(logits, label, confidence):
    mixed = losses.cutmix_loss(logits, label, confidence, 0.95) + losses.classmix_loss(logits, label, confidence, 0.95)
    return mixed + losses.consistency_loss(logits, label, confidence, 0.95) + losses.supervised_loss(logits, label)


def test_fake_tensors_on_a_gpu_launch_nothing():
    """Shapes, types and devices alone; a host value would raise."""
    with FakeTensorMode():
        logits = torch.empty(2, 150, 32, 32, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        assert upsampling.for_triton(logits)
        label, confidence = upsampling.label_and_confidence(logits, (128, 128))
        assert label.device.type == "cuda" and label.shape == confidence.shape == (2, 128, 128)
        loss = all_losses(logits, label, confidence)
        assert loss.dtype == torch.float32 and loss.shape == () and loss.device.type == "cuda"
        assert losses.ohem_loss(logits, label, 0.7, 100).shape == ()


def test_gradients_of_fake_tensors(monkeypatch):
    """On a CPU, as autograd needs a real device for its streams."""
    monkeypatch.setattr(upsampling, "for_triton", lambda logits: True)
    with FakeTensorMode():
        logits = torch.empty(2, 150, 32, 32, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        logits.requires_grad_()
        label, confidence = upsampling.label_and_confidence(logits, (128, 128))
        all_losses(logits, label, confidence).backward()
        assert logits.grad.shape == logits.shape and logits.grad.dtype == torch.bfloat16
        assert logits.grad.is_contiguous(memory_format=torch.channels_last)


def test_the_door(monkeypatch):
    assert not upsampling.for_triton(torch.zeros(1, 2, 3, 3))
    assert not upsampling.for_triton(torch.zeros(1, 2, 3, 3, device="meta"))
    with FakeTensorMode():
        logits = torch.empty(1, 2, 3, 3, device="cuda")
        assert upsampling.for_triton(logits) and not upsampling.for_triton(logits.double())
        monkeypatch.setattr(upsampling, "_has_triton", lambda: False)
        assert not upsampling.for_triton(logits)


def test_without_a_compiler_the_stripes_serve(monkeypatch, caplog):
    """On a GPU's first use Triton builds its launcher in C; a machine without a compiler still trains."""
    from triton.runtime import driver

    def refuse(self):
        raise RuntimeError("Failed to find C compiler.\nand more")

    has_triton = upsampling._has_triton.__wrapped__
    assert has_triton()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(type(driver), "active", property(refuse))
    assert not has_triton()
    assert "Triton does not work here (Failed to find C compiler.)" in caplog.text and "gcc" in caplog.text


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from dualteacher.core import triton_views as views
from dualteacher.core.upsampling import triton_kernels as kernels

TYPES = {"logits": "*bf16", "gradient": "*bf16", "label": "*i64", "positive": "*i32"}
TYPES |= dict.fromkeys(("weight", "loss", "entropy", "highest", "share", "confidence"), "*fp32")
TYPES |= {"order": "*i32"} | dict.fromkeys(("image", "factors", "sums", "out"), "*fp32")
BLOCK = {"K": 8, "PX": 4, "N": 32}
CASES = {
    kernels.entropy_kernel: BLOCK | {"PY": 4, "MAP": False, "PULL": True},
    kernels.label_kernel: BLOCK | {"PY": 4, "SURE": True},
    kernels.gradient_kernel: BLOCK | {"ROWS": 16},
    views.luma_kernel: {"N": 1024},
    views.jitter_kernel: {"N": 1024, "M": 256},
}
for kernel, constants in CASES.items():
    names = [p.name for p in kernel.params]
    if kernel.__module__ == kernels.__name__:  # another image size is no other kernel
        assert all(p.is_constexpr or p.do_not_specialize or p.name in TYPES or p.name == "wx" for p in kernel.params)
    signature = {name: "constexpr" if name in constants else TYPES.get(name, "i32") for name in names}
    source = triton.compiler.ASTSource(kernel, signature, {(names.index(name),): x for name, x in constants.items()})
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
"""


@pytest.mark.slow
def test_the_kernels_compile(tmp_path):
    """The interpreter runs what the compiler refuses. Triton compiles for a GPU without one, to machine code."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run(
        [sys.executable, "-c", COMPILE], check=True, cwd=ROOT, env=environment | {"TRITON_CACHE_DIR": str(tmp_path)}
    )
