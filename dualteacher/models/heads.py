"""Segmentation heads: SegFormer's all-MLP head and DeepLabV3+'s atrous pyramid with decoder.

Both take the backbone's feature maps, finest first, and give logits at the finest map's resolution
(stride 4); nothing in them depends on the values in a tensor, so they trace without data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dualteacher.errors import UserError
from dualteacher.models import dense


def resize(features: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, with half-pixel centres (align_corners=False) as everywhere in the project."""
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def pointwise(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """1 × 1 convolution: (B, K, h, w), weight (N, K) → (B, N, h, w), channels last in memory."""
    return dense.linear(features.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


class _ScaledReLU(torch.autograd.Function):
    """ReLU in place, then dropout of whole channels: x (B, C, h, w) times scale (B, C, 1, 1), 0 or more.

    Written as one operation since the map is a step's largest: autograd would hold two gradients of its size at once.
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
    """All-MLP head (Xie et al. 2021, section 3.2): a linear layer a level, concatenation, fusion, classifier.

    The parameters are the standard ones; `fuse` sees the levels coarsest first, as the official heads do.
    """

    def __init__(self, channels: Sequence[int], width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(channel, width) for channel in channels)
        self.fuse = nn.Conv2d(len(channels) * width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        nn.init.kaiming_normal_(self.fuse.weight, nonlinearity="relu")
        _initialise_classifier(self.classifier)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """[(B, C_k, h_k, w_k), …] finest first → (B, num_classes, h_0, w_0)."""
        features = self.norm(self.fused(levels))
        if self.training and self.dropout.p > 0:
            features = _ScaledReLU.apply(features, self.dropout(features.new_ones(*features.shape[:2], 1, 1)))
        else:
            features = F.relu(features, inplace=True)
        return pointwise(features, self.classifier.weight.flatten(1), self.classifier.bias)

    def fused(self, levels: Sequence[Tensor]) -> Tensor:
        """fuse(concat(upsample(linear_k(level_k)))) without ever making a wide map at full resolution.

        Linear layer, upsampling and the level's slice of `fuse` are all linear, and the slice commutes with
        the upsampling. So the two matrices are multiplied first and applied at the level's own resolution.
        """
        slices = self.fuse.weight.flatten(1).chunk(len(levels), dim=1)
        total: Tensor | None = None
        for level, linear, weight in zip(reversed(levels), reversed(self.linear), slices, strict=True):
            assert isinstance(linear, nn.Linear)
            mapped = pointwise(level, weight @ linear.weight, weight @ linear.bias)
            if mapped.shape[-2:] != levels[0].shape[-2:]:
                mapped = resize(mapped, levels[0].shape[-2:])
            total = mapped if total is None else total.add_(mapped)
        assert total is not None
        return total


class DeepLabV3PlusHead(nn.Module):
    """Atrous spatial pyramid at stride 16, decoder at stride 4 (Chen et al. 2018, arXiv 1802.02611)."""

    RATES = (6, 12, 18)
    LOW_LEVEL = 48  # channels that the fine map is reduced to, so that it does not outweigh the pyramid

    def __init__(self, channels: Sequence[int], width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        fine, coarse = channels
        self.pointwise = _conv(coarse, width, 1)
        self.atrous = nn.ModuleList(_conv(coarse, width, 3, dilation=rate) for rate in self.RATES)
        self.pooled = _conv(coarse, width, 1)
        self.project = _conv((2 + len(self.RATES)) * width, width, 1)
        self.low_level = _conv(fine, self.LOW_LEVEL, 1)
        self.decoder = nn.Sequential(_conv(width + self.LOW_LEVEL, width, 3), _conv(width, width, 3))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        _initialise_classifier(self.classifier)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """[(B, C_4, h, w), (B, C_16, h', w')] → (B, num_classes, h, w)."""
        fine, coarse = levels
        pyramid = resize(self.pyramid(coarse), fine.shape[-2:])
        decoded = self.decoder(torch.cat([pyramid, self.low_level(fine)], dim=1))
        return self.classifier(self.dropout(decoded))

    def pyramid(self, coarse: Tensor) -> Tensor:
        """(B, C_16, h', w') → (B, width, h', w'), with context of five extents."""
        if self.training and coarse.shape[0] == 1:
            raise UserError(
                "model.architecture = deeplabv3plus: its image pooling cannot be normalised over a training"
                " batch of one image; set batch.labelled to at least 2"
            )
        pooled = self.pooled(coarse.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *coarse.shape[-2:])
        atrous = [branch(coarse) for branch in self.atrous]
        return self.project(torch.cat([self.pointwise(coarse), *atrous, pooled], dim=1))


def _conv(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch normalisation, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _initialise_classifier(classifier: nn.Conv2d) -> None:
    """Near-uniform predictions at the start."""
    nn.init.normal_(classifier.weight, std=0.01)
    assert classifier.bias is not None
    nn.init.zeros_(classifier.bias)


HEADS: dict[str, type[SegFormerHead] | type[DeepLabV3PlusHead]] = {
    "segformer": SegFormerHead,
    "deeplabv3plus": DeepLabV3PlusHead,
}
