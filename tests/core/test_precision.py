"""bfloat16 gives what float32 gives, as far as its rounding allows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dualteacher import methods
from dualteacher.benchmark import cases, programs
from dualteacher.core import views
from dualteacher.data.loader import finish
from dualteacher.machine import precision
from dualteacher.methods.base import Clock
from dualteacher.models import segmenter
from dualteacher.training import loop

from .conftest import toy_settings
from .test_methods import batch_of

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def trained(monkeypatch, case: cases.Case, steps: int, **runtime) -> list[dict[str, float]]:
    """The losses' parts of some steps of the training loop itself."""
    monkeypatch.chdir(ROOT)
    original = cases.Case.settings

    def changed(case):
        found = original(case)
        return found.model_copy(update={"runtime": found.runtime.model_copy(update=runtime)})

    with monkeypatch.context() as patch:
        patch.setattr(cases.Case, "settings", changed)
        ours = programs.Ours(case, CPU)
    return [{name: float(value) for name, value in ours(step).items()} for step in range(steps)]


@pytest.mark.parametrize("model", ["mit_b0", "mobilenetv2_100"])
def test_bfloat16_trains_like_float32(monkeypatch, model):
    case = cases.Case(model, 5, 64, 2, 2)
    exact = trained(monkeypatch, case, 3, precision="float32")
    rough = trained(monkeypatch, case, 3, precision="bfloat16")
    for one, other in zip(exact, rough, strict=True):
        assert one.keys() == other.keys()
        for name in ("loss", "loss_supervised", "loss_mix", "loss_consistency"):
            assert other[name] == pytest.approx(one[name], rel=0.05), name
    assert exact != rough  # it was asked for


def test_auto_is_bfloat16_where_the_gpu_has_it(monkeypatch):
    cuda = torch.device("cuda")
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert precision.chosen(cuda, "auto") == ("bfloat16" if has else "float32")
        assert precision.chosen(CPU, "auto") == "float32"
        assert precision.chosen(cuda, "float32") == "float32"
    assert not precision.autocast(CPU, "auto")._enabled


def test_no_step_of_a_transformer_waits_for_the_device():
    """As in test_methods, for the network with attention and recomputation, and with OHEM."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    settings = toy_settings(model={"backbone": "mit_b0"}, loss={"terms": ["ohem"], "ohem_minimum": 10})
    student = segmenter.build(settings.model, 3, None, drop_path=0.1, seed=0).to("meta").train()
    method = methods.build("dual_teacher", settings, student)
    with FakeTensorMode(allow_non_fake_inputs=True):
        clock = programs.clock(0)
        batch = batch_of(settings)
        fake = type(batch)(*(torch.empty_like(tensor, device="meta") for tensor in batch))
        draws = method.draw(clock, fake, 0, torch.device("meta"))
        result = method.loss(student, finish(fake), draws, clock)
        result.total.backward()
        assert result.total.shape == ()


@pytest.mark.parametrize("backbone", ["mobilenetv2_100", "mit_b0"])
def test_no_weight_is_cast_twice_in_a_step(backbone):
    """Teacher and student each cast a weight once, in forward and backward together."""
    settings = toy_settings(model={"backbone": backbone})
    student = segmenter.build(settings.model, 3, None, drop_path=0.1, seed=0).train()
    method = methods.build("dual_teacher", settings, student)
    batch, clock = batch_of(settings), Clock(0, 5)
    weights = [weight for network in (student, method.teachers[0]) for weight in network.parameters()]
    owner = {weight.untyped_storage().data_ptr(): number for number, weight in enumerate(weights)}
    cast: Counter[int] = Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default and kwargs.get("dtype") is torch.bfloat16:
                cast[owner.get(args[0].untyped_storage().data_ptr(), -1)] += args[0].numel()
            return function(*args, **(kwargs or {}))

    with Count():
        with precision.autocast(CPU, "bfloat16"):
            total = method.loss(student, finish(batch), method.draw(clock, batch, 0, CPU), clock).total
        total.backward()
    del cast[-1]  # activations
    assert len(cast) > 100
    assert {number: count for number, count in cast.items() if count > weights[number].numel()} == {}


def test_a_validation_runs_in_the_precision_of_the_run():
    settings = toy_settings(runtime={"precision": "bfloat16"})
    student = segmenter.build(settings.model, 3, None, drop_path=0.1, seed=0)
    seen, unused = [], None

    def observe(clock, last):
        seen.append(torch.is_autocast_enabled("cpu"))
        return {}

    job = loop.Job(
        name="test", settings=settings, student=student, method=methods.build("supervised", settings, student),
        dataset=unused, labelled=unused, unlabelled=unused, steps=1, steps_per_epoch=5, learning_rate=0.01, seed=0,
        device=CPU, store=unused, world=unused, observe=observe,
    )  # fmt: skip
    loop.finish_epoch(job, loop.Progress(counted=1), Clock(0, 5), 0.01, True)
    assert seen == [True]


def test_views_are_blurred_in_float32():
    """bfloat16 would round the kernel's weights, so that they do not add up to 1."""
    image, sigma = torch.rand(2, 3, 16, 16), torch.tensor([1.0, 0.4])
    with precision.autocast(CPU, "bfloat16"):
        blurred = views.blur(image, sigma, 1.15)
    assert torch.equal(blurred, views.blur(image, sigma, 1.15))
