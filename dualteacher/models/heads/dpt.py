"""Dense prediction transformer head (Ranftl et al., ICCV 2021, section 3), on plain ViTs and on pyramids."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dualteacher.models.heads.layers import initialise_classifier, resize


class DPTHead(nn.Module):
    """Reassembles four feature maps into a pyramid, then fuses it from coarse to fine (arXiv 2103.13413).

    The four maps of a plain ViT have one stride p. Reassembled they have p/4, p/2, p and 2p, with 1/8, 1/4, 1/2 and all
    of their channels. The maps of a pyramid stay as they are. The logits are twice as fine as the finest map: stride
    p/8 on a plain ViT. No normalisation layers, as in the recipes for DINOv2.
    """

    def __init__(
        self, channels: Sequence[int], width: int, num_classes: int, dropout: float, *, plain: bool = True
    ) -> None:
        super().__init__()
        self.finer = 8 if plain else 2  # finest map's stride by the logits' stride
        self.reassemble = nn.ModuleList(_reassemble(list(channels)) if plain else [nn.Identity() for _ in channels])
        inner = [_inner(channel, k, len(channels)) if plain else channel for k, channel in enumerate(channels)]
        self.project = nn.ModuleList(nn.Conv2d(channel, width, 3, padding=1, bias=False) for channel in inner)
        self.fuse = nn.ModuleList(Fusion(width, joins=k < len(channels) - 1) for k in range(len(channels)))
        self.output = nn.Conv2d(width, width, 3, padding=1)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialise_classifier(self.classifier)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """[(B, C_k, h_k, w_k), …], finest first → (B, num_classes, 2 h, 2 w) of the finest map once reassembled."""
        maps = [
            project(reassemble(level))
            for level, reassemble, project in zip(levels, self.reassemble, self.project, strict=True)
        ]
        height, width = maps[0].shape[-2:]
        sizes = [(2 * height, 2 * width), *(level.shape[-2:] for level in maps[:-1])]
        fused: Tensor | None = None
        for level, fuse, size in zip(reversed(maps), reversed(self.fuse), reversed(sizes), strict=True):
            fused = resize(fuse(level, fused), size)
        assert fused is not None
        return self.classifier(self.dropout(F.relu(self.output(fused))))


def _inner(channel: int, k: int, count: int) -> int:
    """Channels of a plain ViT's k-th map once reassembled: doubled from map to map, as the published widths."""
    return max(1, channel >> (count - 1 - k))


def _reassemble(channels: list[int]) -> list[nn.Module]:
    """Layers that bring a plain ViT's four maps to 4, 2, 1 and 1/2 times their resolution."""
    inner = [_inner(channel, k, len(channels)) for k, channel in enumerate(channels)]
    scales: list[nn.Module] = [
        nn.ConvTranspose2d(inner[0], inner[0], 4, stride=4),
        nn.ConvTranspose2d(inner[1], inner[1], 2, stride=2),
        nn.Identity(),
        nn.Conv2d(inner[3], inner[3], 3, stride=2, padding=1),
    ]
    return [
        nn.Sequential(nn.Conv2d(channel, width, 1), scale)
        for channel, width, scale in zip(channels, inner, scales, strict=True)
    ]


class Fusion(nn.Module):
    """RefineNet's fusion block: adds the coarser result to a map and refines the sum. joins: False for the coarsest."""

    def __init__(self, width: int, *, joins: bool) -> None:
        super().__init__()
        self.before = ResidualUnit(width) if joins else None
        self.after = ResidualUnit(width)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, level: Tensor, below: Tensor | None) -> Tensor:
        """level and below (B, width, h, w) → the same. `out` and the upsampling after it commute."""
        if self.before is not None and below is not None:
            level = self.before(level) + below
        return self.out(self.after(level))


class ResidualUnit(nn.Module):
    """x + two 3 × 3 convolutions, each after a ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) → the same."""
        return x + self.second(F.relu(self.first(F.relu(x)), inplace=True))
