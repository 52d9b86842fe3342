"""Sliding windows: the streamed mean is the plain one, to the bit, for evaluation and for `predict`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dualteacher.core.upsampling import argmax
from dualteacher.inference.predictor import Predictor
from dualteacher.inference.windows import Grid, mean_scores, window_starts
from dualteacher.prediction.large import Sweep
from dualteacher.settings import Inference
from dualteacher.settings.evaluation import Blend

SLIDE = Inference(mode="slide", batch=2, resize=None, multiple=1, window=24, stride=16, blend="mean")


class Network(nn.Module):
    """Logits that depend on a pixel's place in its window, so that overlapping windows differ."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 3, 5, padding=2, stride=4)

    def forward(self, image: Tensor) -> Tensor:
        logits = self.layer(image)
        return logits + torch.linspace(0, 1, logits.shape[-1])


def plain(images: Tensor, network: nn.Module, window: int, stride: int) -> Tensor:
    """Sum of all windows' logits over their number, each at full resolution."""
    height, width = images.shape[2:]
    total, count = torch.zeros(len(images), 3, height, width), torch.zeros(height, width)
    for top in window_starts(height, window, stride):
        for left in window_starts(width, window, stride):
            part = images[:, :, top : top + window, left : left + window]
            logits = nn.functional.interpolate(network(part), part.shape[2:], mode="bilinear", align_corners=False)
            total[:, :, top : top + window, left : left + window] += logits
            count[top : top + window, left : left + window] += 1
    return total / count


@pytest.mark.parametrize("size", [(24, 24), (24, 60), (57, 24), (61, 83), (20, 70), (16, 16)])
@torch.no_grad()
def test_evaluation_averages_the_windows_logits(size: tuple[int, int]) -> None:
    network, images = Network(), torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    expected = plain(images, network, 24, 16)
    predictor = Predictor(network, SLIDE)  # type: ignore[arg-type]
    assert torch.equal(predictor.logits(images), expected)
    assert torch.equal(predictor(images), argmax(expected, size))


@pytest.mark.parametrize("blend", ["mean", "taper"])
@torch.no_grad()
def test_predict_gives_what_evaluation_gives(blend: Blend) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)

    class Source:
        height, width = pixels.shape[:2]

        def rows(self, top: int, bottom: int) -> np.ndarray:
            return pixels[top:bottom]

    predictor = Predictor(Network(), SLIDE.model_copy(update={"blend": blend}))  # type: ignore[arg-type]
    bands = list(Sweep(predictor, Source(), 24, 16, 1, confidence=True).bands())
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div(255)
    label, confidence = predictor.with_confidence(image)
    assert (np.concatenate([band.labels for band in bands]) == label[0].numpy()).all()
    assert [band.top for band in bands] == window_starts(61, 24, 16)
    shades = np.concatenate([band.confidence for band in bands])  # type: ignore[arg-type]
    np.testing.assert_allclose(shades, confidence[0].numpy(), atol=1 / 255)


def test_rows_are_asked_for_once_and_in_order() -> None:
    asked = []

    def score(rows: None, lefts: Sequence[int]) -> Iterator[Tensor]:
        return iter([torch.ones(1, 24, 24)] * len(lefts))

    blocks = list(mean_scores(Grid(50, 40, 24, 16), lambda top, bottom: asked.append((top, bottom)), score))
    assert asked == [(0, 24), (16, 40), (26, 50)]
    assert sum(block.scores.numel() for block in blocks) == 50 * 40
    assert all((block.scores == 1).all() for block in blocks)


@pytest.mark.parametrize("size", [(24, 24), (61, 83), (20, 70)])
@torch.no_grad()
def test_a_taper_weighs_windows_by_the_place_of_a_pixel_in_them(size: tuple[int, int]) -> None:
    network, images = Network(), torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    height, width = (min(24, side) for side in size)
    profiles = (np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in (height, width))
    weight = torch.from_numpy(np.outer(*profiles)).float()
    total, count = torch.zeros(2, 3, *size), torch.zeros(size)
    for top in window_starts(size[0], 24, 16):
        for left in window_starts(size[1], 24, 16):
            where = (..., slice(top, top + height), slice(left, left + width))
            part = images[where]
            logits = nn.functional.interpolate(network(part), part.shape[2:], mode="bilinear", align_corners=False)
            total[where] += logits * weight
            count[where] += weight
    tapered = SLIDE.model_copy(update={"blend": "taper"})
    found = Predictor(network, tapered).logits(images)  # type: ignore[arg-type]
    torch.testing.assert_close(found, total / count, rtol=1e-4, atol=1e-5)


def test_a_taper_leaves_no_seams() -> None:
    """Windows that disagree: the mean jumps where one ends, the taper passes over."""

    def jump(blend: Blend) -> float:
        grid = Grid(32, 96, 32, 24, blend)
        scores = [torch.full((1, 32, 32), float(number % 2)) for number in range(len(grid.lefts))]
        blocks = mean_scores(grid, lambda top, bottom: None, lambda rows, lefts: scores)
        line = torch.cat([block.scores for block in blocks], -1)[0, 16]
        return float(line.diff().abs().max())

    assert jump("mean") == 0.5
    assert jump("taper") < 0.3
