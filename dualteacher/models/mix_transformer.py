"""Mix Transformer (MiT-B0 … B5), the SegFormer backbone (Xie et al. 2021, arXiv 2105.15203).

MiT has the architecture of timm's PVTv2, which this module builds on, fused attention included. It adds the table of
variants and the multi-scale output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timm.models.pvt_v2 import PyramidVisionTransformerV2
from torch import Tensor
from torch.utils.checkpoint import checkpoint

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Variant:
    """Channels and number of blocks per stage."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


VARIANTS = {
    "mit_b0": Variant((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": Variant((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": Variant((64, 128, 320, 512), (3, 4, 6, 3)),
    "mit_b3": Variant((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": Variant((64, 128, 320, 512), (3, 8, 27, 3)),
    "mit_b5": Variant((64, 128, 320, 512), (3, 6, 40, 3)),
}


class MixTransformer(PyramidVisionTransformerV2):
    """One of VARIANTS. The drop-path rate rises linearly over the blocks, from 0 to `drop_path`.

    With `output_stride=16` (for DeepLabV3+) the last stage's patch embedding has stride 1, so it keeps the third
    stage's resolution. The weights are the same.
    """

    def __init__(self, name: str, *, drop_path: float = 0.0, output_stride: int = 32, bands: int = 3) -> None:
        variant = VARIANTS[name]
        super().__init__(
            in_chans=bands,
            num_classes=0,
            depths=variant.depths,
            embed_dims=variant.channels,
            num_heads=(1, 2, 5, 8),
            sr_ratios=(8, 4, 2, 1),
            mlp_ratios=(4.0, 4.0, 4.0, 4.0),
            drop_path_rate=drop_path,
        )
        if output_stride == 16:
            self.stages[3].downsample.proj.stride = (1, 1)
        elif output_stride != 32:
            raise ValueError(f"output_stride must be 16 or 32, not {output_stride}")
        self.channels = variant.channels
        self.reductions = (*STRIDES[:3], output_stride)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Blocks for layer-wise learning rates; timm's own for PVTv2 are whole stages."""
        blocks = [(r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^stages\.(\d+)\.norm", (99999,))]
        return {"stem": r"^patch_embed", "blocks": [(r"^stages\.(\d+)\.downsample", (0,)), *blocks]}

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image (B, bands, H, W) → one map (B, channels[k], ~H/reductions[k], …) per stage k."""
        features = self.patch_embed(image)
        levels = []
        for stage in self.stages:
            features = _run(stage, features)
            levels.append(features.permute(0, 3, 1, 2))
            features = levels[-1]
        return levels


def _run(stage: Any, features: Tensor) -> Tensor:
    """One stage of timm's network: (B, C, H, W), or (B, H, W, C) for a stage without downsampling → (B, H, W, C).

    timm's own forward would copy the result to channels-first, which the next convolution and the head undo.
    """
    if stage.downsample is not None:
        features = stage.downsample(features)
    batch, height, width, channels = features.shape
    tokens = features.reshape(batch, height * width, channels)
    for block in stage.blocks:
        if stage.grad_checkpointing:
            tokens = checkpoint(block, tokens, (height, width), use_reentrant=False)
        else:
            tokens = block(tokens, (height, width))
    return stage.norm(tokens).view(batch, height, width, channels)
