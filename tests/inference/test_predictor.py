"""The predictor on images of many sizes, and predict's batches on a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dualteacher.core.transfer import fetch
from dualteacher.inference import predictor
from dualteacher.inference.predictor import Predictor
from dualteacher.prediction.work import Work

from ..core.conftest import toy_settings


class Noting(torch.nn.Module):
    """Notes whether cuDNN may time its algorithms."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.timed: list[bool] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.timed.append(torch.backends.cudnn.benchmark)
        return image[:, :2]


def test_algorithms_are_timed_for_the_first_few_sizes_only(monkeypatch):
    monkeypatch.setattr(predictor, "TIMED", 2)
    inference = toy_settings().inference.model_copy(update={"resize": None, "multiple": 1})
    for allowed in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", allowed)
        model = Noting()
        predict = Predictor(model, inference)
        for side in (8, 9, 8, 10, 11, 9, 10):
            predict(torch.rand(1, 3, side, 8))
        assert model.timed == [allowed and timed for timed in (True, True, True, False, False, True, False)]
        assert torch.backends.cudnn.benchmark is allowed


@pytest.mark.parametrize(
    ("ahead", "order"),
    [(0, ["start 1", "fetch 1", "start 2", "fetch 2", "start 3", "fetch 3"]),
     (1, ["start 1", "start 2", "fetch 1", "start 3", "fetch 2", "fetch 3"])],
)  # fmt: skip
def test_a_gpu_starts_a_batch_before_the_last_one_is_fetched(ahead, order):
    seen: list[str] = []

    def of_batch(batch):
        number = batch[0].number
        seen.append(f"start {number}")

        def bands():
            seen.append(f"fetch {number}")
            yield from ["band"] * len(batch)

        return bands

    work = object.__new__(Work)
    work.ahead, work.large, work.stop = ahead, 100, SimpleNamespace(signal=None)
    work.bands = SimpleNamespace(of_batch=of_batch)
    batches = [[SimpleNamespace(number=number, pixels=9)] * 2 for number in (1, 2, 3)]
    writes = list(work._writes(batches))
    assert seen == order
    assert [write.args[0].number for write in writes] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_fetched_tensors_are_on_the_host(device):
    tensors = [torch.arange(6, device=device).view(2, 3), torch.rand(2, device=device)]
    copies = fetch(tensors)()
    assert all(
        copy.device.type == "cpu" and torch.equal(copy, one.cpu()) for copy, one in zip(copies, tensors, strict=True)
    )
