"""Textbook SegFormer, for program (b) of the benchmark."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualteacher.models.heads import SegFormerHead
from dualteacher.models.mix_transformer import MixTransformer
from dualteacher.models.segmenter import Segmenter


class PlainNetwork(nn.Module):
    """A copy of a network that runs timm's blocks as they are; SegFormer's head upsamples, concatenates and fuses."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.copied = copy.deepcopy(segmenter).to(memory_format=torch.contiguous_format)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) in [0, 1] → logits (B, C, ~H/4, ~W/4)."""
        return self.head(self.levels((self.copied.fitted(image) - self.copied.mean) / self.copied.std))

    def levels(self, image: Tensor) -> list[Tensor]:
        """The backbone's feature maps, finest first."""
        backbone = self.copied.backbone
        if not isinstance(backbone, MixTransformer):
            maps = backbone(image)
            chosen = [maps[level] for level in self.copied.levels]
            return [level.permute(0, 3, 1, 2) for level in chosen] if self.copied.channels_last else chosen
        levels = [backbone.patch_embed(image)]
        for stage in backbone.stages:
            levels.append(stage(levels[-1]))
        return levels[1:]

    def head(self, levels: list[Tensor]) -> Tensor:
        """SegFormer's head, layer by layer; another head as it is."""
        head, size = self.copied.head, levels[0].shape[2:]
        if not isinstance(head, SegFormerHead):
            return head(levels)
        wide = []
        for level, linear in zip(levels, head.linear, strict=True):
            mapped = linear(level.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, level.shape[2:])
            wide.append(F.interpolate(mapped, size, mode="bilinear", align_corners=False))
        fused = head.fuse(torch.cat(wide[::-1], 1))
        return head.classifier(head.dropout(F.relu(head.norm(fused))))
