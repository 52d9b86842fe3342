"""CUDA implementation: custom operators that launch the Triton kernels.

They work with fake tensors, torch.compile and CUDA graphs: nothing waits for the device, and no size depends on data.
Block shapes are fixed: autotuning would cost seconds for every new image size, and could change the order of summation
from run to run.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from dualteacher.core.upsampling import triton_kernels as kernels

CLASSES = 8  # classes per thread, in registers
PIXELS = 512  # pixels per program of the first sweep: 4 warps, 4 · CLASSES logits per thread
SIDE = 4  # maximum output rows and columns of a cell per program
COLUMNS = 32  # input columns per program of the gradient sweep: one per lane of its single warp
ROWS = 16  # input rows per program of the gradient sweep; evaluates one more, above the first


class Blocks(NamedTuple):
    """Block shapes: classes, a cell's output rows and columns, and cells per program; powers of 2."""

    K: int
    PY: int
    PX: int
    N: int


def _check(logits: Tensor, size: tuple[int, int]) -> None:
    if logits.dim() != 4 or min(logits.shape[1:]) < 1 or min(size) < 1:
        raise ValueError(f"cannot upsample logits {tuple(logits.shape)} to {tuple(size)}")


def _most(output: int, size: int) -> int:
    """Maximum number of outputs of a cell along an axis."""
    return -(-output // size)


def _blocks(logits: Tensor, size: tuple[int, int]) -> Blocks:
    py, px = (
        min(SIDE, triton.next_power_of_2(_most(output, small)))
        for output, small in zip(size, logits.shape[2:], strict=True)
    )
    return Blocks(min(CLASSES, triton.next_power_of_2(max(2, logits.shape[1]))), py, px, PIXELS // (py * px))


def _grid(logits: Tensor, size: tuple[int, int], blocks: Blocks) -> tuple[int, int]:
    """Launch grid: (blocks of cells, parts of a cell)."""
    batch, _, h, w = logits.shape
    parts = _most(_most(size[0], h), blocks.PY) * _most(_most(size[1], w), blocks.PX)
    return triton.cdiv(batch * (h + 1) * (w + 1), blocks.N), parts


def _shape(logits: Tensor, size: tuple[int, int]) -> tuple[int, ...]:
    """The kernels' arguments batch, classes, h, w, height, width."""
    return *logits.shape, *size


def _on(logits: Tensor) -> AbstractContextManager[Any]:
    """Make the logits' device current: Triton launches there."""
    return torch.cuda.device(logits.device) if logits.is_cuda else nullcontext()


def _launch_entropy(
    logits: Tensor, label: Tensor, weight: Tensor, ignore: int, entropy: Tensor | None, maps: Tensor | None
) -> tuple[Tensor, Tensor]:
    """First sweep: Σ weight · CE and count of CE > 0, per program. Fills `entropy` or `maps` if given."""
    size = (label.shape[1], label.shape[2])
    blocks = _blocks(logits, size)
    grid = _grid(logits, size, blocks)
    loss = torch.empty(grid[0] * grid[1], dtype=torch.float32, device=logits.device)
    positive = torch.empty(grid[0] * grid[1], dtype=torch.int32, device=logits.device)
    highest, share = (loss, loss) if maps is None else maps
    kernels.entropy_kernel[grid](
        logits, label, weight, loss, positive, loss if entropy is None else entropy, highest, share,
        *_shape(logits, size), *logits.stride(), *weight.stride(), _most(size[1], logits.shape[3]), ignore,
        MAP=entropy is not None, PULL=maps is not None, **blocks._asdict(), num_warps=4,
    )  # fmt: skip
    return loss, positive


@torch.library.custom_op("dualteacher::upsampled_cross_entropy", mutates_args=())
def cross_entropy(
    logits: Tensor, label: Tensor, weight: Tensor, ignore_index: int, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Σ weight · CE, the count of CE > 0 and, if wanted, the gradient (B, C, h, w) in the logits' dtype, channels-last.

    logits (B, C, h, w) and weight (B, H, W) of any strides; label (B, H, W), any integer type. A label that is neither
    a class nor `ignore_index` makes the sum NaN, since raising would make the host wait.
    """
    size = (label.shape[1], label.shape[2])
    _check(logits, size)
    batch, classes, h, w = logits.shape
    if len(label) != batch:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(label.shape)} do not fit")
    label = label.contiguous()
    maps = torch.empty((2, *label.shape), dtype=torch.float32, device=logits.device) if wanted else None
    gradient = _gradient_like(logits, wanted)
    with _on(logits):
        loss, positive = _launch_entropy(logits, label, weight, ignore_index, None, maps)
        if maps is not None:
            blocks = _blocks(logits, size)
            grid = (triton.cdiv(batch * w, COLUMNS), triton.cdiv(classes, blocks.K), triton.cdiv(h, ROWS))
            kernels.gradient_kernel[grid](
                logits, label, weight, *maps, gradient, *_shape(logits, size), *logits.stride(), *gradient.stride(),
                *weight.stride(), _most(size[1], w), ignore_index,
                K=blocks.K, PX=blocks.PX, N=COLUMNS, ROWS=ROWS, num_warps=1,
            )  # fmt: skip
    return loss.sum(), positive.sum(), gradient


def _gradient_like(logits: Tensor, wanted: bool) -> Tensor:
    if not wanted:
        return logits.new_empty(0)
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device, memory_format=torch.channels_last)


@cross_entropy.register_fake
def _(logits: Tensor, label: Tensor, weight: Tensor, ignore_index: int, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
    total, positive = logits.new_empty((), dtype=torch.float32), logits.new_empty((), dtype=torch.int64)
    return total, positive, _gradient_like(logits, wanted)


@torch.library.custom_op("dualteacher::upsampled_cross_entropy_map", mutates_args=())
def cross_entropy_map(logits: Tensor, label: Tensor, ignore_index: int) -> Tensor:
    """CE of every pixel, (B, H, W) float32; 0 where ignored, NaN where the label is invalid."""
    size = (label.shape[1], label.shape[2])
    _check(logits, size)
    if len(label) != len(logits):
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(label.shape)} do not fit")
    entropy = torch.empty(label.shape, dtype=torch.float32, device=logits.device)
    with _on(logits):
        _launch_entropy(logits, label.contiguous(), entropy, ignore_index, entropy, None)
    return entropy


@cross_entropy_map.register_fake
def _(logits: Tensor, label: Tensor, ignore_index: int) -> Tensor:
    return logits.new_empty(label.shape, dtype=torch.float32)


@torch.library.custom_op("dualteacher::upsampled_label", mutates_args=())
def label_and_confidence(logits: Tensor, height: int, width: int, with_confidence: bool) -> tuple[Tensor, Tensor]:
    """Argmax (B, H, W) int64 and its probability (B, H, W) float32, empty unless `with_confidence`."""
    size = (height, width)
    _check(logits, size)
    label, confidence = _labels_like(logits, height, width, with_confidence)
    blocks = _blocks(logits, size)
    with _on(logits):
        kernels.label_kernel[_grid(logits, size, blocks)](
            logits, label, confidence, *_shape(logits, size), *logits.stride(), _most(width, logits.shape[3]),
            SURE=with_confidence, **blocks._asdict(), num_warps=4,
        )  # fmt: skip
    return label, confidence


@label_and_confidence.register_fake
def _labels_like(logits: Tensor, height: int, width: int, with_confidence: bool) -> tuple[Tensor, Tensor]:
    label = logits.new_empty((len(logits), height, width), dtype=torch.int64)
    return label, logits.new_empty(label.shape if with_confidence else 0, dtype=torch.float32)
