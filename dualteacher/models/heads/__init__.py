"""Segmentation heads, one file each.

A head takes the backbone's feature maps, finest first, and gives logits at the finest map's resolution
(stride 4); nothing in it depends on the values in a tensor, so it traces without data.
"""

from dualteacher.models.heads.deeplabv3plus import DeepLabV3PlusHead
from dualteacher.models.heads.segformer import SegFormerHead

HEADS: dict[str, type[SegFormerHead] | type[DeepLabV3PlusHead]] = {
    "segformer": SegFormerHead,
    "deeplabv3plus": DeepLabV3PlusHead,
}
