"""Building blocks of the heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualteacher.models import dense


def resize(features: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize to (H, W), align_corners=False as everywhere in the project."""
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def pointwise(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """1 × 1 convolution: (B, K, h, w), weight (N, K) → (B, N, h, w), channels-last in memory."""
    return dense.linear(features.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def normalisation(channels: int, norm: str) -> nn.Module:
    """Batch normalisation; or with norm "group", which does not depend on the batch, group normalisation.

    In as many groups as divide the channels, at most 32 (Wu & He, ECCV 2018), of at least four channels: the image
    pooling of DeepLabV3+ has one value per channel, and a group of one value would always come out as 0.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    most = max(1, min(32, channels // 4))
    return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if channels % groups == 0), channels)


def convolution(inputs: int, outputs: int, kernel: int, norm: str, dilation: int = 1) -> nn.Sequential:
    """Same-size convolution, normalisation, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, normalisation(outputs, norm), nn.ReLU(inplace=True))


def initialise_classifier(classifier: nn.Conv2d) -> None:
    """Initialise for near-uniform predictions."""
    nn.init.normal_(classifier.weight, std=0.01)
    assert classifier.bias is not None
    nn.init.zeros_(classifier.bias)


def cast(weight: Tensor) -> Tensor:
    """The weight as autocast would cast it. For a weight used in slices: autocast casts each, at every use."""
    kind = weight.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return weight.to(torch.get_autocast_dtype(kind))
    return weight
