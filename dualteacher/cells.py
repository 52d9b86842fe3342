"""Argmax of upsampled logits from the cells between them, most of which need no upsampling.

Bilinear interpolation gives a pixel a mean of the four logits around it, its cell's corners. Hence

- where one class is largest at all four corners, it is largest in the whole cell;
- elsewhere only *contenders* matter: classes that at some corner have at least what another class has at all four.

A trained network's corners disagree along borders only, and few classes contend there, so that nearly all of the
upsampling is left out, and the labels are still those of the upsampled logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dualteacher.stripes import CLASSES, first_zero

CORNERS = 4
FEW = (2, 3, 5, 9, 17)  # contenders: cells are taken together by how many they have
BUDGET = 600_000  # elements of the largest temporary tensor: it should stay in the caches


@dataclass(frozen=True)
class Axis:
    """How one axis' outputs lie in its cells: cell c has corners c - 1 and c of the input, cut off at the ends.

    cell: (output,) the cell of each output. corners: (2, cells) inputs. outputs, weights: (slots, cells) the
    outputs of each cell and the weight of its second corner; cells with fewer repeat their last.
    used: (cells,) whether there are any.
    """

    cell: Tensor
    corners: Tensor
    outputs: Tensor
    weights: Tensor
    used: Tensor

    @property
    def slots(self) -> int:
        """The most outputs of a cell."""
        return len(self.outputs)


def axis(output: int, size: int, device: torch.device, dtype: torch.dtype) -> Axis:
    """Bilinear, align_corners=False, `size` inputs to `output` outputs."""
    place = (torch.arange(output, device=device, dtype=torch.float64) + 0.5) * size / output + 0.5
    cell = place.floor().long().clamp_(0, size)
    weight = (place - cell).to(dtype)
    cells = torch.arange(size + 1, device=device)
    corners = torch.stack([cells - 1, cells]).clamp_(0, size - 1)
    first = torch.searchsorted(cell, cells)
    count = torch.searchsorted(cell, cells, right=True) - first
    slots = torch.arange(int(count.max()), device=device)[:, None]
    outputs = (first + torch.minimum(slots, count - 1)).clamp_(0, output - 1)
    return Axis(cell, corners, outputs, weight[outputs], count > 0)


def argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """logits (B, C, h, w) → the class whose upsampled logit is largest, (B, H, W) int64; the first of equals."""
    batch, classes, h, w = logits.shape
    rows, columns = (axis(large, small, logits.device, logits.dtype) for large, small in zip(size, (h, w), strict=True))
    vectors = logits.permute(0, 2, 3, 1).reshape(-1, classes)  # a corner's logits lie together
    # NumPy's is by far the fastest search along the classes
    largest = torch.from_numpy(vectors.numpy().argmax(1)).view(batch, h, w)
    corners = [largest[:, r][:, :, c] for r in rows.corners for c in columns.corners]
    out = corners[0][:, rows.cell].index_select(2, columns.cell)
    same = (corners[0] == corners[1]) & (corners[0] == corners[2]) & (corners[0] == corners[3])
    places = torch.nonzero(~same & rows.used[:, None] & columns.used)
    for part in places.split(max(1, BUDGET // (CORNERS * classes))):
        image, r, c = part.T
        sources = (image * h + rows.corners[:, r])[:, None] * w + columns.corners[:, c]
        near = vectors.index_select(0, sources.flatten()).view(CORNERS, len(r), classes)
        winners = torch.stack([corner[image, r, c] for corner in corners])
        for cells, found in contenders(near, winners, rows.slots * columns.slots):
            values = near[:, cells[:, None], found].transpose(1, 2).contiguous()
            y, x = r[cells], c[cells]
            winner = _largest(values, rows.weights[:, y], columns.weights[:, x])
            label = found.T.contiguous().gather(0, winner.flatten(0, 1)).view(winner.shape)
            out[image[cells], rows.outputs[:, y][:, None], columns.outputs[:, x][None]] = label
    return out


def contenders(near: Tensor, winners: Tensor, pixels: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cells (m,) and their classes (m, k), ascending, which hold all that can be largest between the corners.

    near (4, n, C) are the corners' logits, winners (4, n) their largest classes, the only ones that are asked what
    they have at all four: the bound may be lower than it could be, never higher. Cells of few contenders come apart
    from those of many, so that the few do not have to wait for the many, and no more than BUDGET allows if a cell has
    so many pixels.
    """
    bar = near.gather(2, winners.T.expand(CORNERS, -1, -1)).amin(0).amax(1, keepdim=True)
    cell, found = torch.nonzero(near.amax(0) >= bar, as_tuple=True)
    count = torch.bincount(cell, minlength=near.shape[1])
    start = count.cumsum(0) - count
    least = 0
    for most in (*FEW, near.shape[2]):
        cells = torch.nonzero((count > least) & (count <= most))[:, 0]
        least = most
        if not len(cells):
            continue
        for part in cells.split(max(1, BUDGET // (most * pixels))):
            # what is left over repeats a cell's last contender, so that equals stay in ascending order
            slots = torch.minimum(torch.arange(int(count[part].max())), count[part, None] - 1)
            yield part, found[start[part, None] + slots]


def _largest(values: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """values (4, k, n) at the corners, weights (slots, n) of the lower and right ones → (slots, slots, n) indices."""
    left, other = (torch.lerp(values[i][:, None], values[i + 2][:, None], down) for i in (0, 1))
    pixels = torch.lerp(left[:, :, None], other[:, :, None], right)
    piece = pixels.flatten(1)
    return first_zero(piece.sub_(piece.amax(CLASSES, keepdim=True))).long().view(pixels.shape[1:])
