"""Bilinear upsampling of logits in stripes of output rows, with the gradient, in plain torch operations.

Interpolation (align_corners=False) is linear and separable, so a few output rows need only a few input rows. Each
stripe is computed, used and overwritten while it is in the cache, and its gradient is propagated back in the same way.
The full-resolution tensor never exists; the extra memory is that of one stripe.

For an integer ratio r = W/w, all output columns r·j + p of one phase p have the same interpolation weights, and so do
rows: a stripe is one `lerp` of shifted inputs (`Phases`). Other ratios use small matrices (`Matrices`).

A stripe's data, its piece, is (bands, b, rows, C, columns). Classes come before columns, so that operations and
reductions over classes run over contiguous vectors of pixels. `split` brings pixel maps into this layout, `join` back.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Elements of a stripe: on a CPU small enough for the cache, but large enough to hide the overhead of calls (0.19 s at
# 320,000; 0.27 s at 80,000, 0.25 s at 2.5 million); a GPU needs fewer, larger kernels.
STRIPE_ELEMENTS_CPU = 640_000
STRIPE_ELEMENTS_GPU = 32_000_000

CLASSES = -2  # class dimension of a piece
FAR = 2.0**100  # times any nonzero difference of logits, exceeds any class index


def interpolation_matrix(output: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(output, size) matrix of 1-D linear interpolation with align_corners=False, with exactly torch's weights.

    Row i is the hat function max(0, 1 - |x_i - j|) around the source position x_i = (i + 1/2) · size/output - 1/2,
    clamped to the input.
    """
    # positions in float32, like torch's own interpolation
    source = torch.arange(output, device=device, dtype=torch.float32).add_(0.5).mul_(size / output).sub_(0.5)
    source = source.clamp_(0, size - 1).to(dtype)
    column = torch.arange(size, device=device, dtype=dtype)
    return (1 - (source[:, None] - column).abs_()).clamp_(min=0)


@dataclass(frozen=True)
class Stripe:
    """Some images and some of their output rows, as slices; `source` and `phase` are for the upsampler."""

    images: slice
    rows: slice
    source: slice  # input rows
    phase: int = 0

    @property
    def where(self) -> tuple[slice, slice, slice]:
        """Index of the stripe in a map in split layout, (bands, B, H, 1, columns)."""
        return slice(None), self.images, self.rows


def plan(batch: int, rows: int, per_row: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Split a batch of images of `rows` rows, `per_row` elements each, into blocks (images, rows) of the best size.

    A block is several small images, or some rows of one large image.
    """
    budget = STRIPE_ELEMENTS_CPU if device.type == "cpu" else STRIPE_ELEMENTS_GPU
    step = max(1, min(rows, budget // max(1, per_row)))
    step = -(-rows // -(-rows // step))  # equal blocks rather than a thin last one
    images = max(1, min(batch, budget // max(1, per_row * rows))) if step == rows else 1
    for first in range(0, batch, images):
        for top in range(0, rows, step):
            yield slice(first, min(batch, first + images)), slice(top, min(rows, top + step))


def upsampler(logits: Tensor, size: tuple[int, int], *, gradient: bool = False) -> Upsampler:
    """The upsampler of logits (B, C, h, w), float32 or float64, to `size` (H, W)."""
    if logits.dim() != 4:
        raise ValueError(f"logits must be (B, C, h, w), not {tuple(logits.shape)}")
    whole = all(large % small == 0 for large, small in zip(size, logits.shape[2:], strict=True))
    return (Phases if whole else Matrices)(logits, size, gradient)


class Upsampler(ABC):
    """For each of `stripes()`: `read` returns its piece, and `write` takes the gradient with respect to the piece.

    The next `read` overwrites the piece. `gradient` is complete at the end of the iteration.
    """

    @property
    @abstractmethod
    def gradient(self) -> Tensor:
        """Gradient with respect to the logits, (B, C, h, w), from all gradients written."""

    @abstractmethod
    def stripes(self) -> Iterator[Stripe]:
        """All stripes in order; together they cover each pixel once."""

    @abstractmethod
    def read(self, stripe: Stripe) -> Tensor:
        """Upsampled logits of a stripe, (bands, b, rows, C, columns)."""

    @abstractmethod
    def write(self, stripe: Stripe, gradient: Tensor) -> None:
        """Add a gradient with respect to a stripe's upsampled logits, in the shape of its piece."""

    @abstractmethod
    def split(self, pixels: Tensor) -> Tensor:
        """A map (B, H, W) → (bands, B, H, 1, columns)."""

    @abstractmethod
    def join(self, pixels: Tensor) -> Tensor:
        """The inverse of `split`."""


def phase(index: int, ratio: int) -> tuple[int, float]:
    """(start, weight) such that output ratio · j + index = (1 - weight) · x[start + j] + weight · x[start + j + 1].

    x is the input with its first and last element repeated once, which replaces clamping.
    """
    offset = (index + 0.5) / ratio - 0.5
    return (0, 1 + offset) if offset < 0 else (1, offset)


class Phases(Upsampler):
    """For integer ratios: a band has the columns of one phase, a stripe the rows of one phase."""

    def __init__(self, logits: Tensor, size: tuple[int, int], gradient: bool) -> None:
        batch, classes, h, w = logits.shape
        self.ratio = (size[0] // h, size[1] // w)
        self._source = _with_border(logits)
        self._target = torch.zeros_like(self._source) if gradient else None
        self._blocks = list(plan(batch, h, classes * w * self.ratio[1], logits.device))
        # Buffers allocated once: fresh memory costs a page fault per 4 KiB.
        lines = [(images.stop - images.start, rows.stop - rows.start) for images, rows in self._blocks]
        self._line = (classes, w)
        unit = self.ratio[1] * classes * w
        self._piece = logits.new_empty(unit * max((b * n for b, n in lines), default=0))
        self._wide = logits.new_empty(unit * max((b * (n + 2) for b, n in lines), default=0))
        self._back = torch.empty_like(self._wide) if gradient else None
        self._written = False  # whether the current block has a gradient

    @property
    def gradient(self) -> Tensor:
        assert self._target is not None
        return self._target[:, 1:-1, :, 1:-1].transpose(1, 2)

    def stripes(self) -> Iterator[Stripe]:
        ratio = self.ratio[0]
        for images, source in self._blocks:
            self._widen(images, source)
            for index in range(ratio):
                rows = slice(ratio * source.start + index, ratio * source.stop, ratio)
                yield Stripe(images, rows, source, index)
            self._narrow(images, source)
        if self._target is not None:
            _fold_border(self._target)

    def read(self, stripe: Stripe) -> Tensor:
        start, weight = phase(stripe.phase, self.ratio[0])
        wide = self._view(self._wide, stripe.images, stripe.source, 2)
        piece = self._view(self._piece, stripe.images, stripe.source, 0)
        rows = piece.shape[2]
        upper, lower = wide[:, :, start : start + rows], wide[:, :, start + 1 : start + 1 + rows]
        return torch.lerp(upper, lower, weight, out=piece)

    def write(self, stripe: Stripe, gradient: Tensor) -> None:
        start, weight = phase(stripe.phase, self.ratio[0])
        assert self._back is not None
        back = self._view(self._back, stripe.images, stripe.source, 2)
        rows = gradient.shape[2]
        upper, lower = back[:, :, start : start + rows], back[:, :, start + 1 : start + 1 + rows]
        if self._written:
            upper.add_(gradient, alpha=1 - weight)
        else:  # first stripe of the block: overwrite instead of adding to zeros
            torch.mul(gradient, 1 - weight, out=upper)
            back[:, :, :start].zero_()
            back[:, :, start + rows :].zero_()
            self._written = True
        lower.add_(gradient, alpha=weight)

    def split(self, pixels: Tensor) -> Tensor:
        columns = pixels.shape[-1] // self.ratio[1]
        return pixels.unflatten(-1, (columns, self.ratio[1])).movedim(-1, 0).unsqueeze(CLASSES).contiguous()

    def join(self, pixels: Tensor) -> Tensor:
        return pixels.squeeze(CLASSES).movedim(0, -1).flatten(-2)

    def _view(self, buffer: Tensor, images: slice, source: slice, more: int) -> Tensor:
        """A buffer viewed as (bands, b, rows + more, C, w)."""
        shape = (self.ratio[1], images.stop - images.start, source.stop - source.start + more, *self._line)
        return buffer[: math.prod(shape)].view(shape)

    def _widen(self, images: slice, source: slice) -> None:
        """Upsample the block's rows, plus one above and one below, along the width."""
        rows = self._source[images, source.start : source.stop + 2]
        columns = rows.shape[-1] - 2
        for index, band in enumerate(self._view(self._wide, images, source, 2)):
            start, weight = phase(index, self.ratio[1])
            left, right = rows[..., start : start + columns], rows[..., start + 1 : start + 1 + columns]
            torch.lerp(left, right, weight, out=band)

    def _narrow(self, images: slice, source: slice) -> None:
        """Propagate the block's gradient back along the width."""
        if self._target is None or self._back is None or not self._written:
            return
        rows = self._target[images, source.start : source.stop + 2]
        columns = rows.shape[-1] - 2
        back = self._view(self._back, images, source, 2)
        for index, band in enumerate(back):
            start, weight = phase(index, self.ratio[1])
            rows[..., start : start + columns].add_(band, alpha=1 - weight)
            rows[..., start + 1 : start + 1 + columns].add_(band, alpha=weight)
        self._written = False


def _with_border(logits: Tensor) -> Tensor:
    """(B, C, h, w) → (B, h + 2, C, w + 2), with the edges repeated."""
    batch, classes, h, w = logits.shape
    out = logits.new_empty(batch, h + 2, classes, w + 2)
    out[:, 1:-1, :, 1:-1] = logits.transpose(1, 2)
    out[:, 0], out[:, -1] = out[:, 1], out[:, -2]
    out[..., 0], out[..., -1] = out[..., 1], out[..., -2]
    return out


def _fold_border(gradient: Tensor) -> None:
    """The adjoint of `_with_border`: add the border's gradient to the edges."""
    gradient[:, 1] += gradient[:, 0]
    gradient[:, -2] += gradient[:, -1]
    gradient[..., 1] += gradient[..., 0]
    gradient[..., -2] += gradient[..., -1]


class Matrices(Upsampler):
    """For any ratio: U = R L Cᵀ with a row matrix R (H, h) and a column matrix C (W, w). One band."""

    def __init__(self, logits: Tensor, size: tuple[int, int], gradient: bool) -> None:
        batch, classes, h, w = logits.shape
        self._logits = logits.transpose(1, 2).contiguous()
        self._target = torch.zeros_like(self._logits) if gradient else None
        self._rows = interpolation_matrix(size[0], h, logits.device, logits.dtype)
        self._columns = interpolation_matrix(size[1], w, logits.device, logits.dtype)
        self._blocks = list(plan(batch, size[0], classes * len(self._columns), logits.device))
        self._wide = self._back = logits.new_empty(0)

    @property
    def gradient(self) -> Tensor:
        assert self._target is not None
        return self._target.transpose(1, 2)

    def stripes(self) -> Iterator[Stripe]:
        height, h = self._rows.shape
        previous: slice | None = None
        for images, rows in self._blocks:
            if images != previous:
                self._narrow(previous)
                self._wide = self._logits[images] @ self._columns.T
                self._back = torch.zeros_like(self._wide) if self._target is not None else self._back
            previous = images
            yield Stripe(images, rows, slice(*reach(rows.start, rows.stop, height, h)))
        self._narrow(previous)

    def read(self, stripe: Stripe) -> Tensor:
        wide = self._wide[:, stripe.source]
        piece = self._weights(stripe) @ wide.flatten(2)
        return piece.unflatten(2, wide.shape[2:]).unsqueeze(0)

    def write(self, stripe: Stripe, gradient: Tensor) -> None:
        back = self._back[:, stripe.source].flatten(2)
        back.baddbmm_(self._weights(stripe).T.expand(len(back), -1, -1), gradient[0].flatten(2))

    def split(self, pixels: Tensor) -> Tensor:
        return pixels[None, ..., None, :]

    def join(self, pixels: Tensor) -> Tensor:
        return pixels[0, ..., 0, :]

    def _weights(self, stripe: Stripe) -> Tensor:
        return self._rows[stripe.rows, stripe.source]

    def _narrow(self, images: slice | None) -> None:
        if images is not None and self._target is not None:
            self._target[images] = self._back @ self._columns


def reach(first: int, last: int, output: int, size: int) -> tuple[int, int]:
    """Input range [low, high) from which outputs [first, last) of `output` are interpolated."""
    low = max(0, int((first + 0.5) * size / output - 0.5))
    return low, min(size, max(0, int((last - 0.5) * size / output - 0.5)) + 2)


def first_zero(piece: Tensor) -> Tensor:
    """Index of the first class whose value is 0, the maximum: (…, C, columns) → (…, 1, columns) float; 0 for NaN.

    `max(dim)` would also return the index, but takes four times as long, since it does not vectorise over pixels.
    """
    index = torch.arange(piece.shape[CLASSES], device=piece.device, dtype=piece.dtype).unsqueeze(1)
    return index.sub(piece, alpha=FAR).amin(CLASSES, keepdim=True).nan_to_num_(nan=0.0)
