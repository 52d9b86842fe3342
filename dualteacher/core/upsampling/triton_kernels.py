"""Triton kernels for bilinearly upsampled logits; `gpu.py` launches them.

The unit of work is a cell: the output pixels between the same four input pixels, its corners. An input of h × w has
(h + 1) × (w + 1) cells, numbered from -1. In a border cell both corners along an axis are the same input pixel, which
equals torch's clamping. At ratio r a cell has r × r pixels, so a corner is loaded once for r² pixels.

Pixels are spread over the lanes of a warp, classes are in a thread's registers, so reductions over classes need no
exchange between threads. The loss takes two sweeps. `entropy_kernel` computes each pixel's largest logit m and its norm
s = Σ 2^(v - m). `gradient_kernel` gathers, for N input columns and K classes, the pixels around each input pixel in a
fixed order: without atomics, so the same input gives the same bits. It moves down the rows and carries the lower
corners' share to the next cell, so each pixel is evaluated twice (for its left and right corners), not four times.
Together the sweeps compute three exponentials per pixel and class.

For 12 × 150 × 512² (ratio 4) that is 4.7e8 pixel-classes: 1.4e9 exponentials and about 1e10 other instructions, against
59 MB of bf16 logits and the same for the gradient, so both sweeps are compute-bound. The maps between the sweeps take
8 bytes per pixel. Compiled for sm_90, the inner loops have 12 to 13 instructions per pixel and class. The gradient
kernel uses all 255 registers of a thread, so 8 warps fit on a multiprocessor; the 32 independent values per thread hide
latency instead.

Logits are in bits, v = logit · log₂e. All arithmetic is in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
FAR = tl.constexpr(1e38)  # above any logit in bits

# Arguments whose values do not choose a kernel: else Triton compiles again, for seconds, for sizes and strides that are
# 1 or divisible by 16. For sm_90, the general kernels need no more registers or instructions.
NUMBERS = (
    "batch", "classes", "h", "w", "height", "width", "most_x", "ignore",
    "sb", "sc", "sy", "sx", "gb", "gc", "gy", "gx", "wb", "wy",
)  # fmt: skip


@triton.jit
def first_output(cell, size, output):
    """First output x of a cell: the least with (x + 1/2) · size / output - 1/2 ≥ cell, in integer arithmetic."""
    return tl.minimum((tl.maximum((2 * cell + 1) * output - size, 0) + 2 * size - 1) // (2 * size), output)


@triton.jit
def share_of_second(cell, place, size, output):
    """Interpolation weight of the cell's second corner at output `place`; from integers, so rounded only once."""
    weight = ((2 * place + 1) * size - (2 * cell + 1) * output) * (0.5 / output)
    return tl.where(cell < 0, 1.0, tl.where(cell >= size - 1, 0.0, weight))


@triton.jit
def load_bits(logits, offset, real, k, classes, stride):
    """Classes k of the input pixels at `offset`, (K, N), in bits; -FAR for classes beyond the last."""
    mask = (k < classes)[:, None] & real[None, :]
    value = tl.load(logits + offset[None, :] + (k * stride)[:, None], mask=mask, other=0).to(tl.float32)
    return tl.where((k < classes)[:, None], value * LOG2E, -FAR)


@triton.jit
def cells_of_program(batch, h, w, height, width, most_x, PY: tl.constexpr, PX: tl.constexpr, N: tl.constexpr):
    """N cells: image, row, column, (N,); and PY × PX pixels of each: y, x, whether it exists, (PY · PX, N)."""
    cell = tl.program_id(0) * N + tl.arange(0, N)
    cx = cell % (w + 1) - 1
    cy = cell // (w + 1) % (h + 1) - 1
    image = cell // ((w + 1) * (h + 1))
    pixel = tl.arange(0, PY * PX)
    parts = tl.cdiv(most_x, PX)
    y = first_output(cy, h, height)[None, :] + (tl.program_id(1) // parts * PY + pixel // PX)[:, None]
    x = first_output(cx, w, width)[None, :] + (tl.program_id(1) % parts * PX + pixel % PX)[:, None]
    real = (y < first_output(cy + 1, h, height)[None, :]) & (x < first_output(cx + 1, w, width)[None, :])
    return image, cy, cx, y, x, real & (image < batch)[None, :]


@triton.jit
def upsample(
    logits, start, image, cy, cx, ty, tx, batch, classes, h, w,
    sb, sc, sy, sx, K: tl.constexpr,
):  # fmt: skip
    """Classes start … start + K - 1 of the pixels, (K, PY · PX, N), in bits; and these class indices, (K,)."""
    k = start + tl.arange(0, K)
    real = image < batch
    upper = image.to(tl.int64) * sb + tl.maximum(cy, 0) * sy
    lower = image.to(tl.int64) * sb + tl.minimum(cy + 1, h - 1) * sy
    left, right = tl.maximum(cx, 0) * sx, tl.minimum(cx + 1, w - 1) * sx
    a, b = load_bits(logits, upper + left, real, k, classes, sc), load_bits(logits, upper + right, real, k, classes, sc)
    c, d = load_bits(logits, lower + left, real, k, classes, sc), load_bits(logits, lower + right, real, k, classes, sc)
    top = a[:, None, :] + tx[None, :, :] * (b - a)[:, None, :]
    bottom = c[:, None, :] + tx[None, :, :] * (d - c)[:, None, :]
    return top + ty[None, :, :] * (bottom - top), k


@triton.jit
def entropy_of(own, norm):
    """-ln(2^own / norm); exactly 0 where norm = 1 and own = 0.

    own = 0 means that the label is the largest class, with probability 1 / norm. A series then keeps small entropies
    precise, which the device's logarithm does not; its error is 1e-8 for rest < 0.05.
    """
    rest = (norm - 1.0) / norm
    series = rest * (1 + rest * (1 / 2 + rest * (1 / 3 + rest * (1 / 4 + rest * (1 / 5 + rest * (1 / 6))))))
    return tl.where((own == 0) & (rest < 0.05), series, (tl.log2(norm) - own) * LN2)


@triton.jit(do_not_specialize=NUMBERS)
def entropy_kernel(
    logits, label, weight, loss, positive, entropy, highest, share,
    batch, classes, h, w, height, width,
    sb, sc, sy, sx, wb, wy, wx, most_x, ignore,
    MAP: tl.constexpr, PULL: tl.constexpr, K: tl.constexpr, PY: tl.constexpr, PX: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Σ weight · CE and count of CE > 0 per program, with m and weight / s per pixel if PULL; CE per pixel if MAP."""
    image, cy, cx, y, x, real = cells_of_program(batch, h, w, height, width, most_x, PY, PX, N)
    ty, tx = share_of_second(cy[None, :], y, h, height), share_of_second(cx[None, :], x, w, width)
    pixel = (image.to(tl.int64) * height)[None, :] * width + y * width + x
    target = tl.load(label + pixel, mask=real, other=ignore).to(tl.int32)
    counts = real & (target != ignore)
    high, norm = tl.full([PY * PX, N], -FAR, tl.float32), tl.zeros([PY * PX, N], tl.float32)
    own = tl.zeros([PY * PX, N], tl.float32)
    # no iteration if all pixels of the program are ignored
    for start in range(0, classes * tl.max(tl.max(counts.to(tl.int32), 1), 0), K):
        v, k = upsample(logits, start, image, cy, cx, ty, tx, batch, classes, h, w, sb, sc, sy, sx, K)
        higher = tl.maximum(high, tl.max(v, 0))
        norm = norm * tl.exp2(high - higher) + tl.sum(tl.exp2(v - higher[None, :, :]), 0)
        own += tl.sum(tl.where(k[:, None, None] == target[None, :, :], v, 0.0), 0)
        high = higher
    norm = tl.where(counts, norm, 1.0)
    value = entropy_of(own - high, norm)
    value = tl.where((target < 0) | (target >= classes), float("nan"), value)  # invalid label
    value = tl.where(counts, value, 0.0)
    if MAP:
        tl.store(entropy + pixel, value, mask=real)
    else:
        factor = tl.load(weight + image.to(tl.int64)[None, :] * wb + y * wy + x * wx, mask=counts, other=0)
        factor = factor.to(tl.float32)
        program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        tl.store(loss + program, tl.sum(tl.sum(value * factor, 1), 0))
        tl.store(positive + program, tl.sum(tl.sum((value > 0).to(tl.int32), 1), 0))
        if PULL:
            tl.store(highest + pixel, tl.where(counts, high, FAR), mask=real)
            tl.store(share + pixel, tl.where(counts, factor / norm, 0.0), mask=real)


@triton.jit(do_not_specialize=NUMBERS)
def label_kernel(
    logits, label, confidence,
    batch, classes, h, w, height, width,
    sb, sc, sy, sx, most_x,
    SURE: tl.constexpr, K: tl.constexpr, PY: tl.constexpr, PX: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Each pixel's argmax (the first of equals) and, if SURE, its probability 1 / s."""
    image, cy, cx, y, x, real = cells_of_program(batch, h, w, height, width, most_x, PY, PX, N)
    ty, tx = share_of_second(cy[None, :], y, h, height), share_of_second(cx[None, :], x, w, width)
    pixel = (image.to(tl.int64) * height)[None, :] * width + y * width + x
    high, norm = tl.full([PY * PX, N], -FAR, tl.float32), tl.zeros([PY * PX, N], tl.float32)
    best = tl.zeros([PY * PX, N], tl.int32)
    for start in range(0, classes, K):
        v, k = upsample(logits, start, image, cy, cx, ty, tx, batch, classes, h, w, sb, sc, sy, sx, K)
        higher = tl.max(v, 0)
        equal = tl.where(v == higher[None, :, :], k[:, None, None], classes - 1)
        best = tl.where(higher > high, tl.min(equal, 0), best)
        higher = tl.maximum(high, higher)
        if SURE:
            norm = norm * tl.exp2(high - higher) + tl.sum(tl.exp2(v - higher[None, :, :]), 0)
        high = higher
    tl.store(label + pixel, best.to(tl.int64), mask=real)
    if SURE:
        tl.store(confidence + pixel, 1.0 / norm, mask=real)


@triton.jit
def pull_of_cells(
    first, second, label, weight, highest, share, pixels, weights, cx,
    real, k, w, width, wx, most_x, ignore, SECOND: tl.constexpr,
    PX: tl.constexpr,
):  # fmt: skip
    """Gradient of one output row of cells `cx` (N,) with respect to their first or SECOND corners, (K, N).

    first, second (K, N): the corners' values at that row. pixels, weights (N,): offsets of the row in the maps and in
    `weight`.
    """
    pull = tl.zeros_like(first)
    begin, end = first_output(cx, w, width), first_output(cx + 1, w, width)
    for part in range(0, most_x, PX):
        x = begin[None, :] + part + tl.arange(0, PX)[:, None]
        inside = (x < end[None, :]) & real[None, :]
        tx = share_of_second(cx[None, :], x, w, width)
        target = tl.load(label + pixels[None, :] + x, mask=inside, other=ignore).to(tl.int32)
        factor = tl.load(weight + weights[None, :] + x * wx, mask=inside & (target != ignore), other=0).to(tl.float32)
        high = tl.load(highest + pixels[None, :] + x, mask=inside, other=FAR)
        scaled = tl.load(share + pixels[None, :] + x, mask=inside, other=0)
        part_of_corner = tx if SECOND else 1.0 - tx
        v = first[:, None, :] + tx[None, :, :] * (second - first)[:, None, :]
        power = tl.exp2(v - high[None, :, :]) * (scaled * part_of_corner)[None, :, :]
        own = tl.where(k[:, None, None] == target[None, :, :], (factor * part_of_corner)[None, :, :], 0.0)
        pull += tl.sum(power - own, 1)
    return pull


@triton.jit(do_not_specialize=NUMBERS)
def gradient_kernel(
    logits, label, weight, highest, share, gradient,
    batch, classes, h, w, height, width,
    sb, sc, sy, sx, gb, gc, gy, gx, wb, wy, wx,
    most_x, ignore, K: tl.constexpr, PX: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Σ weight · (p - [class = label]) · interpolation weight, for ROWS input rows, N columns and K classes."""
    column = tl.program_id(0) * N + tl.arange(0, N)
    real = column < batch * w
    image, nx = (column // w).to(tl.int64), column % w
    k = tl.program_id(1) * K + tl.arange(0, K)
    begin = tl.program_id(2) * ROWS
    # offsets of this column and its left and right neighbours
    o1 = image * sb + nx * sx
    o0, o2 = image * sb + tl.maximum(nx - 1, 0) * sx, image * sb + tl.minimum(nx + 1, w - 1) * sx
    carry = tl.zeros([K, N], tl.float32)
    for cy in range(begin - 1, tl.minimum(begin + ROWS, h)):
        up, down = tl.maximum(cy, 0) * sy, tl.minimum(cy + 1, h - 1) * sy
        a0, b0 = load_bits(logits, o0 + up, real, k, classes, sc), load_bits(logits, o0 + down, real, k, classes, sc)
        a1, b1 = load_bits(logits, o1 + up, real, k, classes, sc), load_bits(logits, o1 + down, real, k, classes, sc)
        a2, b2 = load_bits(logits, o2 + up, real, k, classes, sc), load_bits(logits, o2 + down, real, k, classes, sc)
        above, below = tl.zeros([K, N], tl.float32), tl.zeros([K, N], tl.float32)
        for y in range(first_output(cy, h, height), first_output(cy + 1, h, height)):
            ty = share_of_second(cy, y, h, height)
            v0, v1, v2 = a0 + ty * (b0 - a0), a1 + ty * (b1 - a1), a2 + ty * (b2 - a2)
            pixels, weights = (image * height + y) * width, image * wb + y * wy
            pull = pull_of_cells(
                v0, v1, label, weight, highest, share, pixels, weights, nx - 1, real, k, w, width, wx, most_x,
                ignore, True, PX,
            ) + pull_of_cells(
                v1, v2, label, weight, highest, share, pixels, weights, nx, real, k, w, width, wx, most_x,
                ignore, False, PX,
            )  # fmt: skip
            above += (1.0 - ty) * pull
            below += ty * pull
        if cy >= begin:
            offset = image * gb + nx * gx + cy * gy
            value = (carry + above).to(gradient.dtype.element_ty)
            tl.store(gradient + offset[None, :] + (k * gc)[:, None], value, mask=(k < classes)[:, None] & real[None, :])
        carry = below
