"""The predictor on images of many sizes."""

from __future__ import annotations

import torch

from dualteacher.inference import predictor
from dualteacher.inference.predictor import Predictor

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
