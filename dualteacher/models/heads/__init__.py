"""Segmentation heads, one file each.

A head maps the backbone's feature maps, finest first, to logits at the finest map's resolution (stride 4). Its control
flow does not depend on tensor values, so it can be traced.
"""

from dualteacher.models.heads.deeplabv3plus import DeepLabV3PlusHead
from dualteacher.models.heads.segformer import SegFormerHead

HEADS: dict[str, type[SegFormerHead] | type[DeepLabV3PlusHead]] = {
    "segformer": SegFormerHead,
    "deeplabv3plus": DeepLabV3PlusHead,
}
