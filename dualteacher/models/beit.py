"""BEiT at any image size: its relative position biases are interpolated from the grid of timm's network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import ndgrid
from timm.models._features import FeatureGetterNet
from timm.models.beit import Attention, Beit
from torch import Tensor

from dualteacher.models import bicubic

EXTRA = 3  # biases without a position: class token to patches, patches to class token, class token to itself


class FreeAttention(Attention):
    """timm's attention with biases for another grid of patches."""

    grid: tuple[int, int]

    def _get_rel_pos_bias(self) -> Tensor:
        """(1, heads, 1 + h w, 1 + h w), the class token first."""
        table = resized(self.relative_position_bias_table, self.window_size, self.grid)
        height, width = self.grid
        tokens = height * width + 1
        table = table.roll(EXTRA, 0)  # a row's number after the last position would be fixed in an exported file
        bias = table[relative_positions(height, width, table.device).flatten()]
        return bias.view(tokens, tokens, -1).permute(2, 0, 1).contiguous()[None]


class FreeBeit(FeatureGetterNet):
    """timm's features of a BEiT, of images whose sides are multiples of its patches."""

    def __init__(self, network: Beit, blocks: list[int]) -> None:
        super().__init__(network, blocks, norm=True)
        network.patch_embed.strict_img_size = False
        for block in network.blocks:
            block.attn.__class__ = FreeAttention

    def forward(self, image: Tensor) -> list[Tensor]:
        grid = self.model.patch_embed.dynamic_feat_size(image.shape[-2:])
        for block in self.model.blocks:
            block.attn.grid = grid
        return super().forward(image)


def resized(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Bias table ((2h - 1)(2w - 1) + 3, heads) of one grid for another one, bicubic."""
    if not torch.compiler.is_exporting() and tuple(old) == tuple(new):  # exporting, a comparison would fix the size
        return table
    positions, extra = table[:-EXTRA], table[-EXTRA:]
    before, after = ([2 * side - 1 for side in grid] for grid in (old, new))
    plane = positions.T.reshape(1, -1, *before)
    plane = bicubic.interpolate(plane.float(), after, mode="bicubic", align_corners=False).to(table.dtype)
    return torch.cat([plane.flatten(2)[0].T, extra])


def relative_positions(height: int, width: int, device: torch.device) -> Tensor:
    """Row of the bias table for each pair of tokens, (1 + h w, 1 + h w): timm's numbers, from the rolled table."""
    y, x = (axis.flatten() for axis in ndgrid(*(torch.arange(n, device=device) for n in (height, width))))
    down, right = y[:, None] - y + height - 1, x[:, None] - x + width - 1
    inner = F.pad(down * (2 * width - 1) + right + EXTRA, (1, 0), value=1)
    first = F.pad(torch.zeros_like(inner[:1, 1:]), (1, 0), value=2)
    return torch.cat([first, inner])
