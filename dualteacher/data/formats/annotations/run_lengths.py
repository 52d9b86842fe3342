"""Run lengths of annotation tools → masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from dualteacher.data.formats.annotations.shapes import Size, Wrong


def coco(counts: Any, size: Size) -> np.ndarray:
    """COCO's run lengths, a list or a compressed string, column by column → (H, W) bool."""
    if isinstance(counts, str):
        counts = decompress(counts)
    return alternating(counts, size[::-1]).T


def alternating(counts: Any, size: Size) -> np.ndarray:
    """Lengths of runs, row by row, of pixels outside, inside, outside, … → (H, W) bool."""
    if not isinstance(counts, list) or not all(isinstance(count, int) and count >= 0 for count in counts):
        raise Wrong("run lengths are not a list of counts")
    if sum(counts) != size[0] * size[1]:
        raise Wrong("run lengths do not add up to the image's size")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size)


def decompress(text: str) -> list[int]:
    """COCO's compressed counts: five bits a character, low bits first, from the third on as differences.

    A character is 48 + bits; 32: more follow, 16 in the last one: negative. A difference is to the count before last.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise Wrong("compressed run lengths are damaged")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise Wrong("compressed run lengths are cut off")
    return counts


def packed(data: Any, size: Size) -> np.ndarray:
    """Label Studio's brush: a bit stream of RGBA values, of which alpha counts → (H, W) bool.

    Header: number of values (32 bits), bits of a value - 1 (5), four widths - 1 (4 each). Then, until all values are
    there: 1 bit (1: a run of one value, 0: single values), 2 bits (which width), the number - 1 in that width, values.
    """
    if not isinstance(data, list) or not all(isinstance(byte, int) and 0 <= byte < 256 for byte in data):
        raise Wrong("a brush's run lengths are not a list of bytes")
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def take(width: int) -> int:
        nonlocal place
        place += width
        if place > len(bits):
            raise Wrong("a brush's run lengths are cut off")
        return int(bits[place - width : place], 2)

    total, word = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    if total != size[0] * size[1] * 4:
        raise Wrong("a brush's run lengths do not add up to the image's size")
    values, at = np.zeros(total, np.uint32), 0
    while at < total:
        run = take(1)
        end = at + take(widths[take(2)]) + 1
        values[at:end] = take(word) if run else [take(word) for _ in range(min(end, total) - at)]
        at = end
    return values.reshape(*size, 4)[..., 3] > 0
