"""Bicubic resampling by matrices is torch's, with its gradient; timm's position embeddings go through it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dualteacher.models import bicubic
from dualteacher.models.segmenter import build

from .conftest import model


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(3, 5), (7, 9), (14, 4), (21, 30)])
def test_matrices_do_what_torch_does(size: tuple[int, int], antialias: bool) -> None:
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    results = []
    for resample in (bicubic.by_matrices, lambda x, size, **options: F.interpolate(x, size, mode="bicubic", **options)):
        leaf = x.clone().requires_grad_()
        found = resample(leaf, size, align_corners=False, antialias=antialias)
        (found * torch.arange(found.numel()).view_as(found)).sum().backward()
        results.append((found.detach(), leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backbone", ["vit_small_patch14_dinov2", "beit_base_patch16_224"])
def test_position_embeddings_of_timm_go_through_it(tiny: None, backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU with deterministic algorithms; the gradients of all position embeddings are those of torch's way."""
    segmenter = build(model(backbone=backbone, architecture="dpt"), 3, None, drop_path=0.0, seed=0).eval()
    image, gradients, calls = torch.rand(1, 3, 56, 42), [], []

    def counted(*arguments, **options):
        calls.append(arguments)
        return by_matrices(*arguments, **options)

    by_matrices = bicubic.by_matrices
    monkeypatch.setattr(bicubic, "by_matrices", counted)
    for needed in (False, True):
        monkeypatch.setattr(bicubic, "_needed", lambda x, needed=needed: needed and x.requires_grad)
        segmenter.zero_grad()
        segmenter(image).square().mean().backward()
        gradients.append([p.grad for p in segmenter.backbone.parameters()])
        assert bool(calls) == needed
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)
