"""The network's input channels: which bands of an image file they are, and how stored values become 8 bits.

A pack keeps the channels of its images, weights those of their training images. So `predict` and exported networks
read a file as `prepare` did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dualteacher.data.formats.errors import Unreadable

SAVE_AS = "save it with 8 or 16 bits a channel, or set `range` (docs/own-data.md)"


@dataclass(frozen=True)
class Channels:
    """Bands in the order of the network's input, and the values that become 0 and 255.

    bands: numbered from 1; None: red, green and blue, or grey three times. limits: (low, high) for all channels or for
    each; None: the range of the number type, of more than 8 bits the upper 8. rgb: the first three of `bands` are red,
    green and blue.
    """

    bands: tuple[int, ...] | None = None
    limits: tuple[tuple[float, float], ...] | None = None
    rgb: bool = True

    @property
    def count(self) -> int:
        return 3 if self.bands is None else len(self.bands)

    @property
    def ordinary(self) -> bool:
        """Whether files are read as without choices: RGB or grey, whatever it shows, in the number type's range."""
        return self.bands is None and self.limits is None

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
        """Stored values (H, W, n) of `bits` bits → uint8 (H, W, C)."""
        chosen = self.select(values)
        out = np.empty((*values.shape[:2], len(chosen)), np.uint8)
        limits = None if self.limits is None else self.limits * (len(chosen) // len(self.limits))
        for place, band in enumerate(chosen):  # one by one, to bound memory
            out[..., place] = eight_bits(band, bits) if limits is None else scaled(band, *limits[place])
        return out

    def missing(self, values: np.ndarray, nodata: float | None) -> np.ndarray:
        """Where a file has no data, (H, W) bool: NaN in a channel, or the file's nodata value in all of them."""
        chosen = self.select(values)
        nan = [np.isnan(band) for band in chosen if band.dtype.kind == "f"]
        found = np.any(nan, axis=0) if nan else np.zeros(values.shape[:2], bool)
        return found if nodata is None else found | np.all([band == nodata for band in chosen], axis=0)

    def describe(self) -> dict[str, Any]:
        """As JSON values, for `of`."""
        return {
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
        )

    def __str__(self) -> str:
        bands = "red, green, blue" if self.rgb else "the first three bands"
        if self.bands is not None:
            known = " (the first three: red, green, blue)" if self.starts_with_rgb else ""
            bands = f"band{'s' * (self.count > 1)} {', '.join(map(str, self.bands))}{known}"
        if self.limits is None:
            return bands
        return f"{bands} from {', '.join(f'{low:.6g}…{high:.6g}' for low, high in self.limits)}"


RGB = Channels()


def shown(pixels: np.ndarray) -> np.ndarray:
    """Channels (H, W, C) as a picture (H, W, 3): the first three, or the first as grey."""
    return pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values from `low` to `high` → 0 to 255, rounded; beyond: clipped; NaN: 0."""
    factor = 255 / (high - low)
    return np.rint(np.clip(np.nan_to_num((values.astype(np.float64) - low) * factor, nan=0), 0, 255)).astype(np.uint8)


def eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Stored values of `bits` bits as uint8; of more bits the upper 8. Unreadable for floats and larger integers."""
    _refuse_complex(values)
    if values.dtype.kind == "f":
        raise Unreadable(f"holds floating-point values: {SAVE_AS}")
    if values.dtype.kind == "b" or bits < 8:
        return values.astype(np.uint8) * np.uint8(255 // ((1 << bits) - 1))
    if values.dtype == np.uint8:
        return values
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise Unreadable(f"holds 32-bit values: {SAVE_AS}")
    return (values >> (min(bits, 16) - 8)).astype(np.uint8)


def _refuse_complex(values: np.ndarray) -> None:
    if values.dtype.kind == "c":
        raise Unreadable("holds complex numbers, as radar images do: save their magnitude")
