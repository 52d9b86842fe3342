"""Convert a trained network to an equivalent form that can be exported."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

from dualteacher.models.heads import SegFormerHead
from dualteacher.models.heads.layers import resize
from dualteacher.models.segmenter import Segmenter
from dualteacher.system.errors import UserError

MULTIPLE = 32  # image sides must be multiples of this
SMALLEST = 64  # minimum image side: below, a feature map of side 1 makes torch.export specialise
Size = tuple[int, int]  # the only height and width that a file takes


class Logits(nn.Module):
    """Image (B, bands, H, W) in [0, 1] → logits (B, C, H, W)."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Tensor) -> Tensor:
        return resize(self.segmenter(image), image.shape[-2:])


class ClassMap(Logits):
    """Image (B, bands, H, W) → class of each pixel, (B, H, W) uint8."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).argmax(1).to(torch.uint8)


def program(segmenter: Segmenter, *, argmax: bool = False, size: Size | None = None) -> torch.export.ExportedProgram:
    """Logits or Classes for any batch size, and any height and width ≥ 64 that are multiples of 32, or only `size`."""
    _check_size(segmenter, size)
    module = (ClassMap if argmax else Logits)(ready(segmenter))
    dimension = torch.export.Dim
    sizes: dict[int, Any] = {0: dimension("batch", min=1, max=4096)}
    if size is None:
        height, width = (MULTIPLE * dimension(name, min=SMALLEST // MULTIPLE, max=1024) for name in ("h", "w"))
        sizes |= {2: height, 3: width}
    # torch.export would specialise on equal sizes, or on 1
    example = torch.zeros(2, segmenter.channels.count, *(size or (4 * MULTIPLE, 5 * MULTIPLE)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(module, (example,), dynamic_shapes=(sizes,))
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains paths of this machine
    return exported


def _check_size(segmenter: Segmenter, size: Size | None) -> None:
    """UserError if a file cannot have this size, or needs one.

    Swin needs one: the padding of its windows depends on the image's size, and torch.export does not finish.
    """
    if size is not None and any(side < SMALLEST or side % MULTIPLE for side in size):
        raise UserError(
            f"--size {size[0]} {size[1]}: both sides must be multiples of {MULTIPLE}, from {SMALLEST} on; change them"
        )
    if size is None and any(type(module).__name__ == "WindowAttention" for module in segmenter.backbone.modules()):
        raise UserError(
            f"export: {segmenter.settings.backbone} has windows that depend on the image's size, which no file for all"
            " sizes can follow; choose one: --size HEIGHT WIDTH"
        )


def ready(segmenter: Segmenter) -> Segmenter:
    """An exportable copy on the CPU, in eval mode."""
    segmenter = copy.deepcopy(segmenter).cpu().eval().requires_grad_(False)
    if isinstance(segmenter.head, SegFormerHead):
        setattr(segmenter, "head", Baked(segmenter.head))  # noqa: B010 — not the attribute's declared type
    if MULTIPLE % segmenter.multiple == 0:
        segmenter.multiple = 1  # whole patches at every size that the file takes
    _fix_padding(segmenter)
    return segmenter


class Baked(nn.Module):
    """SegFormer's head with its weight products precomputed; see SegFormerHead.fused."""

    def __init__(self, head: SegFormerHead) -> None:
        super().__init__()
        self.norm, self.classifier = head.norm, head.classifier
        self.maps = nn.ModuleList()
        slices = reversed(head.fuse.weight.flatten(1).chunk(len(head.linear), dim=1))
        for linear, weight in zip(head.linear, slices, strict=True):
            assert isinstance(linear, nn.Linear)
            convolution = nn.Conv2d(linear.in_features, len(weight), 1)
            convolution.weight = nn.Parameter((weight @ linear.weight)[:, :, None, None], requires_grad=False)
            convolution.bias = nn.Parameter(weight @ linear.bias, requires_grad=False)
            self.maps.append(convolution)

    def forward(self, levels: list[Tensor]) -> Tensor:
        size = levels[0].shape[-2:]
        first, *others = [convolution(level) for convolution, level in zip(self.maps, levels, strict=True)]
        for mapped in others:
            first = first + resize(mapped, size)
        return self.classifier(F.relu(self.norm(first)))


class FixedPadding(nn.Module):
    """TensorFlow's "same" convolution for sizes divisible by its stride, so that the padding is constant.

    Otherwise the sizes become nested symbolic expressions that take torch.export minutes.
    """

    def __init__(self, convolution: Conv2dSame) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 1)  # replaced by the next line
        self.convolution.__dict__.update(convolution.__dict__)
        self.convolution.padding = (0, 0)
        self.pad: list[int] = []
        for axis in (1, 0):
            kernel, stride, dilation = (
                part[axis] for part in (convolution.kernel_size, convolution.stride, convolution.dilation)
            )
            total = max((kernel - 1) * dilation + 1 - stride, 0)
            self.pad += [total // 2, total - total // 2]

    def forward(self, features: Tensor) -> Tensor:
        return self.convolution(F.pad(features, self.pad))


def _fix_padding(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, Conv2dSame):
            setattr(module, name, FixedPadding(child))
        else:
            _fix_padding(child)
