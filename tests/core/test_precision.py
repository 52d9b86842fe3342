"""bfloat16 gives what float32 gives, as far as its rounding allows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dualteacher import methods
from dualteacher.benchmark import cases, programs
from dualteacher.data.loader import finish
from dualteacher.machine import precision
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
