"""Labels from cells are those of the upsampled logits, whatever the sizes; the first of equals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dualteacher import cells, upsampling

SIZES = [
    (16, 20, 64, 80), (7, 9, 100, 31), (16, 16, 16, 16), (20, 20, 7, 9), (1, 1, 5, 5), (1, 8, 3, 24), (5, 4, 15, 20),
]  # fmt: skip


def example(h: int, w: int, smooth: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(h * w)
    logits = torch.randn(2, 80, h + 2, w + 2, generator=generator, dtype=torch.float64)
    return F.avg_pool2d(logits, 3, 1) if smooth else logits[:, :, 1:-1, 1:-1]


@pytest.mark.parametrize("budget", [1, 5_000, 600_000])
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_labels_are_those_of_the_upsampled_logits(monkeypatch, sizes, smooth, budget):
    monkeypatch.setattr(cells, "BUDGET", budget)
    h, w, *size = sizes
    logits = example(h, w, smooth)
    found = upsampling.argmax(logits, tuple(size))
    whole = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    # torch finds the source positions in float32: where two classes all but agree, either will do
    torch.testing.assert_close(whole.gather(1, found[:, None])[:, 0], whole.amax(1), rtol=0, atol=1e-5)


def test_most_cells_are_left_out(monkeypatch):
    """Two flat regions: only the cells on the border are looked at, with two contenders."""
    logits = torch.full((1, 100, 8, 8), -1.0)
    logits[:, [3, 70]] = 0
    logits[:, 3, :, :4], logits[:, 70, :, 4:] = 9, 9
    seen = []
    original = cells.contenders
    monkeypatch.setattr(
        cells, "contenders", lambda *what: (seen.append(tuple(kept[1].shape)) or kept for kept in original(*what))
    )
    label = cells.argmax(logits, (32, 32))
    assert seen == [(9, 2)]
    assert (label[..., :16] == 3).all() and (label[..., 16:] == 70).all()


def test_the_first_of_equals():
    logits = torch.zeros(1, 70, 2, 2)
    logits[0, 5], logits[0, 9] = torch.eye(2), 1 - torch.eye(2)
    assert cells.argmax(logits, (2, 2)).tolist() == [[[5, 9], [9, 5]]]
    assert (cells.argmax(torch.zeros(1, 70, 3, 3), (6, 6)) == 0).all()
