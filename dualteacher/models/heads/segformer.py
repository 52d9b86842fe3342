"""SegFormer's all-MLP head (Xie et al., NeurIPS 2021, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dualteacher.models.heads.layers import cast, initialise_classifier, normalisation, pointwise, resize


class _ScaledReLU(torch.autograd.Function):
    """In-place ReLU and channel dropout: x (B, C, h, w) times scale (B, C, 1, 1) ≥ 0.

    One operation, because autograd would otherwise hold two gradients of this map, the largest of a step, at once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        x.mul_(scale).relu_()
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, scale)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        out, scale = ctx.saved_tensors
        return torch.where(out > 0, slope, 0).mul_(scale), None


class SegFormerHead(nn.Module):
    """All-MLP head (Xie et al. 2021, section 3.2): a linear layer per level, concatenation, fusion, classifier.

    Parameters as in the official implementation; `fuse` takes the levels coarsest first.
    """

    def __init__(
        self, channels: Sequence[int], width: int, num_classes: int, dropout: float, norm: str = "batch"
    ) -> None:
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(channel, width) for channel in channels)
        self.fuse = nn.Conv2d(len(channels) * width, width, 1, bias=False)
        self.norm = normalisation(width, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        nn.init.kaiming_normal_(self.fuse.weight, nonlinearity="relu")
        initialise_classifier(self.classifier)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """[(B, C_k, h_k, w_k), …] finest first → (B, num_classes, h_0, w_0)."""
        features = self.norm(self.fused(levels))
        if self.training and self.dropout.p > 0:
            features = _ScaledReLU.apply(features, self.dropout(features.new_ones(*features.shape[:2], 1, 1)))
        else:
            features = F.relu(features, inplace=True)
        return pointwise(features, self.classifier.weight.flatten(1), self.classifier.bias)

    def fused(self, levels: Sequence[Tensor]) -> Tensor:
        """fuse(concat(upsample(linear_k(level_k)))) without the wide concatenated map at full resolution.

        A level's slice of `fuse` commutes with the upsampling, so it is multiplied into the level's linear layer and
        applied at the level's own resolution.
        """
        slices = cast(self.fuse.weight).flatten(1).chunk(len(levels), dim=1)
        total: Tensor | None = None
        for level, linear, weight in zip(reversed(levels), reversed(self.linear), slices, strict=True):
            assert isinstance(linear, nn.Linear)
            mapped = pointwise(level, weight @ linear.weight, weight @ linear.bias)
            if mapped.shape[-2:] != levels[0].shape[-2:]:
                mapped = resize(mapped, levels[0].shape[-2:])
            total = mapped if total is None else total.add_(mapped)
        assert total is not None
        return total
