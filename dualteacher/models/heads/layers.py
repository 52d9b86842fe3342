"""Building blocks of the heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dualteacher.models import dense


def resize(features: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize to (H, W), align_corners=False as everywhere in the project."""
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def pointwise(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """1 × 1 convolution: (B, K, h, w), weight (N, K) → (B, N, h, w), channels-last in memory."""
    return dense.linear(features.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def convolution(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Same-size convolution, batch normalisation, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def initialise_classifier(classifier: nn.Conv2d) -> None:
    """Initialise for near-uniform predictions."""
    nn.init.normal_(classifier.weight, std=0.01)
    assert classifier.bias is not None
    nn.init.zeros_(classifier.bias)
