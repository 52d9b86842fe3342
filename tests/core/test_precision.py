"""bfloat16 and torch.compile give what float32 and eager mode give, as far as their rounding allows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from dualteacher import methods
from dualteacher.benchmark import cases, programs
from dualteacher.data.loader import finish
from dualteacher.models import segmenter

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
    if runtime.get("compile"):
        ours.job.student.compile()  # as loop.run does
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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_trains_like_an_eager_one(monkeypatch):
    case = cases.Case("test_resnet", 5, 64, 2, 2)  # timm's smallest: compiling takes seconds for each layer
    eager = trained(monkeypatch, case, 2, compile=False)
    compiled = trained(monkeypatch, case, 2, compile=True)
    for one, other in zip(eager, compiled, strict=True):
        # dropout draws differ, as torch's compiler has its own
        assert other["loss"] == pytest.approx(one["loss"], rel=0.1)


def test_no_step_of_a_transformer_waits_for_the_device():
    """As in test_methods, for the network with attention and recomputation, and with OHEM."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    settings = toy_settings(model={"backbone": "mit_b0"}, loss={"supervised": "ohem", "ohem_minimum": 10})
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
