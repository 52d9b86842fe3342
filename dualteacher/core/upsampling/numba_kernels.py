"""Numba kernels over bilinearly upsampled logits, called by cpu.py.

They interpolate a few pixels at a time, all classes of each, from the four input pixels around them (its corners), then
reduce them and add their gradient to the corners, within the L1 cache. No full-resolution tensor is written.

Logits are (h, w, C) float32, in bits below the largest of their input pixel: u = (max - logit) · log₂e ≥ 0, with
exponential 2^-u. Interpolated values are ≥ 0 too, so the sum of exponentials needs no maximum first. Positions and
borders are those of torch's interpolation (see `Axis`).

The compiler vectorises the loops as written; `benchmark` shows if it no longer does. Output rows between the same two
input rows share all corners, and are processed ROWS at a time.

A kernel processes one band of input rows of one image. Compiled code is cached beside this file or in the user's cache
folder, or in NUMBA_CACHE_DIR. All kernels and helpers must stay in this file: Numba recompiles when a kernel's own file
changes, but does not track imports.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import float32

LANES = 16  # classes are padded to whole vectors
ROWS = 4  # output rows processed together
BAND = 16  # input rows per unit of work
NOTHING = np.finfo(np.float32).max  # bits of the padding: probability 0
HIGHEST = np.float32(126)  # 2^-126 is the smallest normal float32
ROUNDING = np.float32(1e-6)  # rounding error of interpolation, relative to the largest corner
TINY = np.float32(2.0**-64)  # below this sum of exponentials, start again from the pixel's own maximum
LOG2E = np.float32(1.4426950408889634)
MOST = np.int32(2**31 - 1)
# coefficients of 2^x on [-1/2, 1/2], relative error 2e-9, exactly 1 at 0 (Lawson's algorithm, degree 6)
EXP2 = tuple(
    np.float32(factor)
    for factor in (
        1.0, 0.6931472057374279, 0.24022646890611915, 0.05550328776612227, 0.009618488958269542, 0.0013399931362378138,
        0.00015345812025371192,
    )
)  # fmt: skip


def jit(function: Callable[..., Any]) -> Any:
    """Compile at the first call, with a cache. Fast-math may reorder sums and fuse products, but keeps NaN."""
    compiler = functools.partial(numba.njit, nogil=True, error_model="numpy")
    rules = {"reassoc", "contract", "nsz", "arcp"}
    try:
        made = compiler(cache=True, fastmath=rules)(function)
    except RuntimeError:  # no writable cache folder
        return compiler(fastmath=rules)(function)
    if (cache := getattr(made, "_cache", None)) is not None:
        for name in ("load_overload", "save_overload"):
            setattr(cache, name, _forgiving(getattr(cache, name), cache.flush))
    return made


UNREADABLE = (OSError, EOFError, ValueError, UnpicklingError, AttributeError, ImportError)


def _forgiving(method: Callable[..., Any], flush: Callable[[], None]) -> Callable[..., Any]:
    """Wrap a cache method: on any fault (full disk, damaged or outdated file), clear the cache and return None."""

    def attempt(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except UNREADABLE:
            with suppress(*UNREADABLE):
                flush()
            return None

    return attempt


class Axis(NamedTuple):
    """Interpolation along one axis, (output,) each: neighbouring inputs `low` and `high`, and the weight of `high`."""

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray


class RowRange(NamedTuple):
    """A band of BAND input rows from `first` on, and its output rows start … end - 1."""

    first: int
    start: int
    end: int


@numba.njit(inline="always")
def power(u: Any) -> Any:
    """2^-u for u ≥ 0, in a form that vectorises."""
    u = HIGHEST if u > HIGHEST else u
    whole = np.rint(u)
    part = whole - u
    value = EXP2[6]
    value = value * part + EXP2[5]
    value = value * part + EXP2[4]
    value = value * part + EXP2[3]
    value = value * part + EXP2[2]
    value = value * part + EXP2[1]
    value = value * part + EXP2[0]
    return value * np.int32((np.int32(127) - np.int32(whole)) << np.int32(23)).view(np.float32)


@numba.njit(inline="always")
def bits(u: Any) -> Any:
    """A float ≥ 0 as an int32 of the same order, since the minimum of integers vectorises."""
    return np.float32(u).view(np.int32)


@numba.njit(inline="always")
def rank(logit: Any) -> Any:
    """Any float as an int32 of the same order; -0 and 0 are equal."""
    whole = bits(logit)
    return np.int32(-np.int32(whole & MOST)) if whole < 0 else whole


@numba.njit(inline="always")
def fill(row: Any, source: Any, winner: Any) -> None:
    """Convert a row of logits `source` (w, C) to bits `row` (w, padded), with each pixel's argmax in `winner` (w,)."""
    for x in range(source.shape[0]):
        most = -MOST
        for c in range(source.shape[1]):
            most = max(most, rank(source[x, c]))
        first = MOST
        for c in range(source.shape[1]):
            first = min(first, np.int32(c) if rank(source[x, c]) == most else MOST)
        first = min(first, np.int32(source.shape[1] - 1))
        winner[x] = first
        largest = source[x, first]
        for c in range(source.shape[1]):
            row[x, c] = (largest - source[x, c]) * LOG2E


@numba.njit(inline="always")
def scratch(logits: Any) -> Any:
    """Buffers: two input rows in bits (2, w, padded), their argmax (2, w), and values of ROWS pixels (ROWS, padded)."""
    w, padded = logits.shape[1], (logits.shape[2] + LANES - 1) // LANES * LANES
    rows, winner = np.full((2, w, padded), NOTHING, np.float32), np.empty((2, w), np.int32)
    return rows, winner, np.zeros((ROWS, padded), np.float32)


@numba.njit(inline="always")
def end_of_group(y: Any, end: Any, low: Any) -> Any:
    """End of the group of output rows from y on, at most ROWS, that lie between the same two input rows."""
    stop = y + 1
    while stop < end and stop < y + ROWS and low[stop] == low[y]:
        stop += 1
    return stop


@numba.njit(inline="always")
def rows_of_group(y: Any, stop: Any, weight: Any, down: Any) -> Any:
    """The group's 2nd to 4th output row, repeating the last one if there are fewer. Writes their weights to `down`."""
    last = stop - 1
    r1, r2 = min(y + 1, last), min(y + 2, last)
    down[0], down[1], down[2], down[3] = weight[y], weight[r1], weight[r2], weight[last]
    return r1, r2, last


@numba.njit(inline="always")
def move_down(rows: Any, winner: Any, upper: Any, logits: Any, y: Any, start: Any, low: Any, high: Any) -> Any:
    """Update `rows` from output row y - 1 to y. Returns the index in `rows` of the upper input row."""
    if y != start and low[y] == low[y - 1]:
        return upper
    upper = 1 - upper  # usually the lower row becomes the upper one
    if y == start or low[y] != high[y - 1]:
        fill(rows[upper], logits[low[y]], winner[upper])
    fill(rows[1 - upper], logits[high[y]], winner[1 - upper])
    return upper


@numba.njit(inline="always")
def corners(rows: Any, upper: Any, left: Any, right: Any, across: Any, c: Any) -> Any:
    """Class c, interpolated horizontally, in the upper and the lower input row."""
    top = rows[upper, left, c] + across * (rows[upper, right, c] - rows[upper, left, c])
    bottom = rows[1 - upper, left, c] + across * (rows[1 - upper, right, c] - rows[1 - upper, left, c])
    return top, bottom


@numba.njit(nogil=True)
def from_the_largest(
    rows: np.ndarray, upper: int, left: int, right: int, across: float, down: float, value: np.ndarray
) -> Any:
    """Recompute a pixel's exponentials relative to its own maximum. Returns their sum and the maximum's bits."""
    least = NOTHING
    for c in range(value.shape[0]):
        top, bottom = corners(rows, upper, left, right, across, c)
        value[c] = top + down * (bottom - top)
        least = min(least, value[c])
    total = float32(0)
    for c in range(value.shape[0]):
        value[c] = power(value[c] - least)
        total += value[c]
    return total, least


@jit
def entropies(
    logits: np.ndarray, label: np.ndarray, weight: np.ndarray, ignore: int, wanted: bool, band: RowRange,
    down_axis: Axis, across_axis: Axis, own: np.ndarray, total: np.ndarray, gradient: np.ndarray, carry: np.ndarray,
) -> bool:  # fmt: skip
    """One band of one image: CE = -ln(2^own / total) per output pixel and, if `wanted`, the gradient of Σ weight · CE.

    logits (h, w, C); label, weight, own, total (H, W). Adds the gradient, weight · (p - [class = label]) interpolated
    back, to gradient (h, w, C), and the part for the next band's first row to carry (w, C). Returns False at an
    invalid label.
    """
    y0, y1, ty = down_axis
    x0, x1, tx = across_axis
    first, y, end = band
    classes = logits.shape[2]
    rows, winner, value = scratch(logits)
    upper, padded = 0, value.shape[1]
    v0, v1, v2, v3 = value[0], value[1], value[2], value[3]
    norm, down, to_top, to_bottom = np.empty((4, ROWS), np.float32)
    while y < end:
        stop = end_of_group(y, end, y0)
        upper = move_down(rows, winner, upper, logits, y, band.start, y0, y1)
        rows_of_group(y, stop, ty, down)
        d0, d1, d2, d3 = down[0], down[1], down[2], down[3]
        above = gradient[y0[y]]
        below = carry if y1[y] >= first + BAND else gradient[y1[y]]
        for x in range(label.shape[1]):
            counts = False
            for row in range(y, stop):
                counts |= label[row, x] != ignore
                if label[row, x] != ignore and not 0 <= label[row, x] < classes:
                    return False
            if not counts:
                continue
            left, right, across = x0[x], x1[x], tx[x]
            n0 = n1 = n2 = n3 = float32(0)
            for c in range(padded):
                top, bottom = corners(rows, upper, left, right, across, c)
                step = bottom - top
                p0, p1 = power(top + d0 * step), power(top + d1 * step)
                p2, p3 = power(top + d2 * step), power(top + d3 * step)
                v0[c], v1[c], v2[c], v3[c] = p0, p1, p2, p3
                n0, n1, n2, n3 = n0 + p0, n1 + p1, n2 + p2, n3 + p3
            norm[0], norm[1], norm[2], norm[3] = n0, n1, n2, n3
            pulled = False
            for k in range(ROWS):
                to_top[k] = to_bottom[k] = float32(0)
                row = y + k
                if row >= stop or label[row, x] == ignore:
                    continue
                target = label[row, x]
                top, bottom = corners(rows, upper, left, right, across, target)
                low = top + down[k] * (bottom - top)
                if norm[k] < TINY:  # the corners differ so much that no corner's maximum is near the pixel's
                    norm[k], least = from_the_largest(rows, upper, left, right, across, down[k], value[k])
                    low -= least
                own[row, x], total[row, x] = -low, norm[k]
                if (
                    value[k, target] > float32(0.5) * norm[k]
                ):  # same exponentials in both: ratio is exactly 1 if no other class counts
                    own[row, x], total[row, x] = float32(0), norm[k] / value[k, target]
                pull = weight[row, x]
                if wanted and pull != float32(0):
                    pulled = True
                    value[k, target] -= norm[k]
                    to_bottom[k] = pull / norm[k] * down[k]
                    to_top[k] = pull / norm[k] - to_bottom[k]
            if pulled:
                t0, t1, t2, t3 = to_top[0], to_top[1], to_top[2], to_top[3]
                b0, b1, b2, b3 = to_bottom[0], to_bottom[1], to_bottom[2], to_bottom[3]
                for c in range(classes):
                    over = t0 * v0[c] + t1 * v1[c] + t2 * v2[c] + t3 * v3[c]
                    under = b0 * v0[c] + b1 * v1[c] + b2 * v2[c] + b3 * v3[c]
                    above[left, c] += over - over * across
                    above[right, c] += over * across
                    below[left, c] += under - under * across
                    below[right, c] += under * across
        y = stop
    return True


@numba.njit(inline="always")
def largest_of(rows: Any, upper: Any, left: Any, right: Any, across: Any, down: Any, value: Any, classes: Any) -> Any:
    """Argmax of each of ROWS outputs in a column. Writes their bits to `value` (ROWS, padded)."""
    v0, v1, v2, v3 = value[0], value[1], value[2], value[3]
    d0, d1, d2, d3 = down[0], down[1], down[2], down[3]
    m0 = m1 = m2 = m3 = MOST
    for c in range(value.shape[1]):
        top, bottom = corners(rows, upper, left, right, across, c)
        step = bottom - top
        u0, u1, u2, u3 = top + d0 * step, top + d1 * step, top + d2 * step, top + d3 * step
        v0[c], v1[c], v2[c], v3[c] = u0, u1, u2, u3
        m0, m1, m2, m3 = min(m0, bits(u0)), min(m1, bits(u1)), min(m2, bits(u2)), min(m3, bits(u3))
    i0 = i1 = i2 = i3 = MOST
    for c in range(value.shape[1]):
        i = np.int32(c)
        i0, i1 = min(i0, i if bits(v0[c]) == m0 else MOST), min(i1, i if bits(v1[c]) == m1 else MOST)
        i2, i3 = min(i2, i if bits(v2[c]) == m2 else MOST), min(i3, i if bits(v3[c]) == m3 else MOST)
    last = np.int32(classes - 1)  # if all are NaN, the padding would win
    return min(i0, last), min(i1, last), min(i2, last), min(i3, last)


@jit
def labels(
    logits: np.ndarray, band: RowRange, down_axis: Axis, across_axis: Axis, label: np.ndarray, confidence: np.ndarray
) -> None:
    """One band of one image: argmax of its output rows and its softmax probability, both (H, W)."""
    y0, y1, ty = down_axis
    x0, x1, tx = across_axis
    _, y, end = band
    rows, winner, value = scratch(logits)
    upper, padded, down = 0, value.shape[1], np.empty(ROWS, np.float32)
    v0, v1, v2, v3 = value[0], value[1], value[2], value[3]
    while y < end:
        stop = end_of_group(y, end, y0)
        upper = move_down(rows, winner, upper, logits, y, band.start, y0, y1)
        r1, r2, last = rows_of_group(y, stop, ty, down)
        for x in range(label.shape[1]):
            i0, i1, i2, i3 = largest_of(rows, upper, x0[x], x1[x], tx[x], down, value, logits.shape[2])
            label[y, x], label[r1, x], label[r2, x], label[last, x] = i0, i1, i2, i3
            u0, u1, u2, u3 = v0[i0], v1[i1], v2[i2], v3[i3]
            n0 = n1 = n2 = n3 = float32(0)
            for c in range(padded):
                n0, n1 = n0 + power(v0[c] - u0), n1 + power(v1[c] - u1)
                n2, n3 = n2 + power(v2[c] - u2), n3 + power(v3[c] - u3)
            confidence[y, x], confidence[r1, x] = float32(1) / n0, float32(1) / n1
            confidence[r2, x], confidence[last, x] = float32(1) / n2, float32(1) / n3
        y = stop


@numba.njit(inline="always")
def contenders(rows: Any, left: Any, right: Any, floor: Any, found: Any) -> Any:
    """Write to `found` the classes that can be the argmax somewhere between four corners. Returns their number.

    A class's interpolated bits lie between its smallest and largest corner, so a class whose smallest is above
    another's largest cannot win.
    """
    least = MOST
    for c in range(floor.shape[0]):
        a, b, d, e = bits(rows[0, left, c]), bits(rows[0, right, c]), bits(rows[1, left, c]), bits(rows[1, right, c])
        low, high = np.int32(min(min(a, b), min(d, e))), np.int32(max(max(a, b), max(d, e)))
        floor[c] = low.view(np.float32) - ROUNDING * high.view(np.float32)
        least = min(least, high)
    limit = np.int32(least).view(np.float32) * (float32(1) + ROUNDING)
    count = 0
    for c in range(found.shape[0]):
        found[count] = c
        count += not floor[c] > limit  # keeps NaN
    return count


@jit
def largest(logits: np.ndarray, band: RowRange, down_axis: Axis, across_axis: Axis, label: np.ndarray) -> None:
    """One band of one image: argmax of its output rows, the same as in `labels`.

    Where all four corners have the same argmax, so have the outputs between them. Elsewhere usually only a few classes
    can win; these are gathered, and only they are interpolated.
    """
    y0, y1, ty = down_axis
    x0, x1, tx = across_axis
    _, y, end = band
    width, classes = label.shape[1], logits.shape[2]
    rows, winner, value = scratch(logits)
    found, few, few_values = np.empty(classes, np.int32), np.empty((2, 2, LANES), np.float32), value[:, :LANES].copy()
    upper, down = 0, np.empty(ROWS, np.float32)
    while y < end:
        stop = end_of_group(y, end, y0)
        upper = move_down(rows, winner, upper, logits, y, band.start, y0, y1)
        r1, r2, last = rows_of_group(y, stop, ty, down)
        start = 0
        while start < width:
            left, right, after = x0[start], x1[start], start + 1
            while after < width and x0[after] == left:
                after += 1
            count, i = 1, winner[0, left]
            if i != winner[0, right] or i != winner[1, left] or i != winner[1, right]:
                count = contenders(rows, left, right, value[0], found)
                i = found[0]
            if count == 1:
                for row in range(y, stop):
                    label[row, start:after] = i
            elif count <= LANES:
                few[:] = NOTHING
                for k in range(count):
                    few[0, 0, k], few[0, 1, k] = rows[0, left, found[k]], rows[0, right, found[k]]
                    few[1, 0, k], few[1, 1, k] = rows[1, left, found[k]], rows[1, right, found[k]]
                for x in range(start, after):
                    i0, i1, i2, i3 = largest_of(few, upper, 0, 1, tx[x], down, few_values, count)
                    label[y, x], label[r1, x], label[r2, x], label[last, x] = found[i0], found[i1], found[i2], found[i3]
            else:
                for x in range(start, after):
                    i0, i1, i2, i3 = largest_of(rows, upper, left, right, tx[x], down, value, classes)
                    label[y, x], label[r1, x], label[r2, x], label[last, x] = i0, i1, i2, i3
            start = after
        y = stop


@jit
def enlarge_rows(source: np.ndarray, band: RowRange, down_axis: Axis, across_axis: Axis, out: np.ndarray) -> None:
    """Upsample one band of one image (h, w · C) to (H, W · C); `across_axis` indexes single numbers, not pixels."""
    y0, y1, ty = down_axis
    x0, x1, tx = across_axis
    between = np.empty(source.shape[1], np.float32)
    for y in range(band.start, band.end):
        upper, lower, down = source[y0[y]], source[y1[y]], ty[y]
        for x in range(between.shape[0]):
            between[x] = upper[x] + down * (lower[x] - upper[x])
        for x in range(out.shape[1]):
            left = between[x0[x]]
            out[y, x] = left + tx[x] * (between[x1[x]] - left)


@jit
def count_pairs(target: np.ndarray, prediction: np.ndarray, classes: int, ignore: int, counts: np.ndarray) -> None:
    """Count class pairs (pixels,) in counts (classes² + 2,); the last two are invalid and ignored pixels."""
    before = run = 0  # neighbours mostly have the same pair: add runs at once
    for i in range(target.shape[0]):
        t, p = int(target[i]), int(prediction[i])
        place = t * classes + p
        if t == ignore:
            place = classes * classes + 1
        elif t < 0 or t >= classes or p < 0 or p >= classes:
            place = classes * classes
        if place != before:
            counts[before] += run
            before, run = place, 0
        run += 1
    counts[before] += run
