"""Segmentation heads, one file each.

A head maps the backbone's feature maps, finest first, to logits. Its control flow does not depend on tensor values, so
it can be traced.
"""

from collections.abc import Sequence

from dualteacher.models.heads.deeplabv3plus import DeepLabV3PlusHead
from dualteacher.models.heads.dpt import DPTHead
from dualteacher.models.heads.segformer import SegFormerHead

Head = SegFormerHead | DeepLabV3PlusHead | DPTHead


def create(
    architecture: str,
    channels: Sequence[int],
    strides: Sequence[int],
    width: int,
    num_classes: int,
    dropout: float,
    norm: str = "batch",
) -> tuple[Head, float]:
    """(a randomly initialised head, stride of its logits) for feature maps of these channels and strides.

    norm: "batch" or "group", the normalisation in the head; DPT has none.
    """
    if architecture == "dpt":
        dpt = DPTHead(channels, width, num_classes, dropout, plain=len(set(strides)) == 1)
        stride = strides[0] / dpt.finer
        return dpt, int(stride) if stride.is_integer() else stride
    head = SegFormerHead if architecture == "segformer" else DeepLabV3PlusHead
    return head(channels, width, num_classes, dropout, norm), strides[0]
