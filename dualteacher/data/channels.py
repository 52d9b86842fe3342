"""The network's input channels: which bands of an image file they are, and how stored values become 8 or 16 bits.

A pack keeps the channels of its images, weights those of their training images. So `predict` and exported networks
read a file as `prepare` did. Levels from 0 to 255 are what the pipeline computes with: uint8, or of 16 bits float32
with fractions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dualteacher.data.formats.errors import Unreadable

SAVE_AS = "save it with 8 or 16 bits a channel (unsigned), or set `range` (docs/own-data.md)"


@dataclass(frozen=True)
class Channels:
    """Bands in the order of the network's input, and the values that become the lowest and highest level.

    bands: numbered from 1; None: red, green and blue, or grey three times. limits: (low, high) for all channels or for
    each; None: the range of the number type, of more than 8 bits the upper 8. rgb: the first three of `bands` are red,
    green and blue. depth: bits kept of a value, 8 or 16.
    """

    bands: tuple[int, ...] | None = None
    limits: tuple[tuple[float, float], ...] | None = None
    rgb: bool = True
    depth: int = 8

    @property
    def count(self) -> int:
        return 3 if self.bands is None else len(self.bands)

    @property
    def ordinary(self) -> bool:
        """Whether files are read as without choices: RGB or grey, whatever it shows, in the number type's range."""
        return self.bands is None and self.limits is None and self.depth == 8

    @property
    def starts_with_rgb(self) -> bool:
        return self.rgb and self.count >= 3

    def select(self, values: np.ndarray) -> list[np.ndarray]:
        """The channels' bands (H, W) of stored values (H, W, n); Unreadable if there are too few."""
        _refuse_complex(values)
        number = values.shape[2]
        bands = self.bands or ((1, 2, 3) if number >= 3 else (1, 1, 1))
        if max(bands) > number:
            raise Unreadable(f"holds {number} band{'s' * (number != 1)}, and `bands` asks for band {max(bands)}")
        return [values[..., band - 1] for band in bands]

    def take(self, values: np.ndarray, bits: int) -> np.ndarray:
        """Stored values (H, W, n) of `bits` bits → uint8 or uint16 (H, W, C), as a pack keeps them."""
        chosen = self.select(values)
        out = np.empty((*values.shape[:2], len(chosen)), np.uint8 if self.depth == 8 else np.uint16)
        limits = None if self.limits is None else self.limits * (len(chosen) // len(self.limits))
        for place, band in enumerate(chosen):  # one by one, to bound memory
            if limits is not None:
                out[..., place] = scaled(band, *limits[place], self.depth)
            elif self.depth == 8:
                out[..., place] = eight_bits(band, bits)
            else:
                out[..., place] = scaled(band, 0, (1 << _bits_used(band, bits)) - 1, self.depth)
        return out

    def missing(self, values: np.ndarray, nodata: float | None) -> np.ndarray:
        """Where a file has no data, (H, W) bool: NaN in a channel, or the file's nodata value in all of them."""
        chosen = self.select(values)
        nan = [np.isnan(band) for band in chosen if band.dtype.kind == "f"]
        found = np.any(nan, axis=0) if nan else np.zeros(values.shape[:2], bool)
        return found if nodata is None else found | np.all([band == nodata for band in chosen], axis=0)

    def describe(self) -> dict[str, Any]:
        """As JSON values, for `of`."""
        depth = {} if self.depth == 8 else {"depth": self.depth}
        return depth | {
            "bands": None if self.bands is None else list(self.bands),
            "range": None if self.limits is None else [list(pair) for pair in self.limits],
            "rgb": self.rgb,
        }

    @classmethod
    def of(cls, described: Mapping[str, Any] | None) -> Channels:
        """From `describe`; None: RGB. TypeError, ValueError or KeyError if it is damaged."""
        if described is None:
            return RGB
        bands, limits = described["bands"], described["range"]
        return cls(
            None if bands is None else tuple(int(band) for band in bands),
            None if limits is None else tuple((float(low), float(high)) for low, high in limits),
            bool(described["rgb"]),
            int(described.get("depth", 8)),
        )

    def __str__(self) -> str:
        bands = "red, green, blue" if self.rgb else "the first three bands"
        if self.bands is not None:
            known = " (the first three: red, green, blue)" if self.starts_with_rgb else ""
            bands = f"band{'s' * (self.count > 1)} {', '.join(map(str, self.bands))}{known}"
        bands += "" if self.depth == 8 else f" with {self.depth} bits"
        if self.limits is None:
            return bands
        return f"{bands} from {', '.join(f'{low:.6g}…{high:.6g}' for low, high in self.limits)}"


RGB = Channels()


def levels(pixels: np.ndarray) -> np.ndarray:
    """What a pack keeps, as levels from 0 to 255: uint8 as it is, uint16 as float32."""
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32) / np.float32(257)


def shown(pixels: np.ndarray) -> np.ndarray:
    """Levels (H, W, C) as a picture (H, W, 3) uint8: the first three channels, or the first as grey."""
    picture = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
    return picture if picture.dtype == np.uint8 else np.rint(picture).astype(np.uint8)


def scaled(values: np.ndarray, low: float, high: float, depth: int = 8) -> np.ndarray:
    """Values from `low` to `high` → all of uint8 or uint16, rounded; beyond: clipped; NaN: 0."""
    top = (1 << depth) - 1
    found = np.nan_to_num((values.astype(np.float64) - low) * (top / (high - low)), nan=0)
    return np.rint(np.clip(found, 0, top)).astype(np.uint8 if depth == 8 else np.uint16)


def eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Stored values of `bits` bits as uint8; of more bits the upper 8, without a sign's bit. Unreadable for floats,
    negative and larger integers.
    """
    used = _bits_used(values, bits)
    if values.dtype.kind == "b" or bits < 8:
        return values.astype(np.uint8) * np.uint8(255 // ((1 << bits) - 1))
    if values.dtype == np.uint8:
        return values
    return (values >> (used - 8) if used >= 8 else values << (8 - used)).astype(np.uint8)


def _bits_used(values: np.ndarray, bits: int) -> int:
    """Bits of the largest value that the number type is taken for, 16 at most; Unreadable as `eight_bits`."""
    _refuse_complex(values)
    if values.dtype.kind == "f":
        raise Unreadable(f"holds floating-point values: {SAVE_AS}")
    if values.dtype.kind in "bu" and bits <= 16:
        return bits
    if values.size and values.min() < 0:
        raise Unreadable(f"holds negative values: {SAVE_AS}")
    if values.size and values.max() > 0xFFFF:
        raise Unreadable(f"holds 32-bit values: {SAVE_AS}")
    return min(bits, 16) - (values.dtype.kind == "i" and bits <= 16)


def _refuse_complex(values: np.ndarray) -> None:
    if values.dtype.kind == "c":
        raise Unreadable("holds complex numbers, as radar images do: save their magnitude")
