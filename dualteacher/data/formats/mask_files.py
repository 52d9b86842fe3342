"""Read mask files as integers: indices, or colours packed as r << 16 | g << 8 | b."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from dualteacher.data.formats import images, tiff
from dualteacher.data.formats.errors import Colored as Colored
from dualteacher.data.formats.errors import Unreadable

ROUNDING = 2  # greys in lossy formats may come back with channels that differ by this much
NO_DATA = int(np.iinfo(np.int32).min)  # stands for NaN in `read_values`


class Values(NamedTuple):
    """The content of a mask file, turned upright by its own EXIF orientation."""

    values: np.ndarray  # (H, W) integers: indices, or colours as r << 16 | g << 8 | b
    grey_as_color: bool  # an index stored as three equal channels
    palette: tuple[tuple[int, int, int], ...] | None  # the file's colours for its indices
    lossy: bool = False  # of a format whose compression changes values


def read_values(data: bytes, color: bool) -> Values:
    """Decode a mask file to indices or, with `color`, to packed colours.

    An index is the stored value: a palette index, an 8- or 16-bit grey value, or 0 and 1 of a 1-bit file.
    `Colored` if the file holds colours instead, `Unreadable` if it is damaged.
    """
    page = tiff.open_page(data)
    if page is not None:
        return _mask_of_tiff(page, color)
    with images.open_image(data) as opened:
        _, remaining = images.decode(opened)
        grey_as_color, palette = False, None
        if color:
            values = _packed(np.asarray(opened.convert("RGB")))
        elif opened.mode in ("1", "L", "P", "I") or opened.mode.startswith("I;16"):
            values = np.asarray(opened).astype(np.int32)
            palette = _palette(opened)
        elif opened.mode in ("LA", "PA"):
            channels = np.asarray(opened)
            _refuse_alpha(channels)
            values = channels[..., 0].astype(np.int32)
        elif opened.mode in ("RGB", "RGBA"):
            channels = np.asarray(opened)
            _refuse_alpha(channels)
            colors = channels[..., :3]
            if _is_lossy(opened, data) and int(np.ptp(colors, axis=2).max(initial=0)) <= ROUNDING:
                colors = np.asarray(opened.convert("L"))[..., None]
            grey_as_color, values = True, _grey(colors).astype(np.int32)
        else:
            raise Unreadable(f"holds pixels of mode {opened.mode} where one index per pixel is expected")
    return Values(images.upright(values, remaining), grey_as_color, palette, _is_lossy(opened, data))


def _is_lossy(opened: Image.Image, data: bytes) -> bool:
    """Whether the file's compression changes values. A WebP is lossy if its pixels are in a chunk `VP8 `."""
    if opened.format != "WEBP":
        return opened.format in ("JPEG", "MPO")
    at = 12
    while at + 8 <= len(data):
        if data[at : at + 4] in (b"VP8 ", b"VP8L"):
            return data[at : at + 4] == b"VP8 "
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return True  # frames of an animation


def _refuse_alpha(channels: np.ndarray) -> None:
    """`Unreadable` if a mask (H, W, channels) is plain but its transparency is not."""
    last = channels[..., -1]
    if (
        channels.shape[-1] in (2, 4)
        and (channels[..., :-1] == channels[0, 0, :-1]).all()
        and (last != last[0, 0]).any()
    ):
        raise Unreadable("shows its classes in the transparency (alpha) channel alone: save that channel as the mask")


def _mask_of_tiff(page: tiff.Page, color: bool) -> Values:
    """`read_values` for a TIFF, whose indices may have any number of bits, a sign, or be whole floats."""
    stored = images.stored_values(page)
    if color:
        pixels = page.eight_bits(stored)
        return Values(images.upright(_packed(images.rgb(pixels)), page.orientation), False, None)
    bands = page.samples - page.alpha
    if bands not in (1, 3):
        raise Unreadable(f"holds {bands} bands where one index per pixel is expected: is there a band per class?")
    if page.alpha:
        _refuse_alpha(stored)
    values = _grey(stored[..., :3]) if bands == 3 else stored[..., 0]
    if page.photometric == tiff.WHITE_IS_ZERO and values.dtype.kind in "bu":
        values = ((1 << page.bits) - 1) - values.astype(np.int64)
    palette = None if page.colors is None else tuple((int(r), int(g), int(b)) for r, g, b in page.colors)
    return Values(images.upright(_whole(values), page.orientation), bands == 3, palette)


def _whole(values: np.ndarray) -> np.ndarray:
    """Values as int32; Unreadable if they are not whole numbers of that size."""
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), NO_DATA, values.astype(np.float64))
        if (values != np.floor(values)).any():
            raise Unreadable("holds fractions where one whole number per pixel is expected: is it a probability map?")
    if values.size and values.dtype.kind != "b":
        low, high = values.min(), values.max()
        if low < np.iinfo(np.int32).min or high > np.iinfo(np.int32).max:
            raise Unreadable(f"holds values from {low} to {high}, which are no class indices")
    return values.astype(np.int32)


def _grey(channels: np.ndarray) -> np.ndarray:
    """The first of three equal channels; `Colored` if they differ."""
    if (channels != channels[..., :1]).any():
        raise Colored("holds colours (RGB) where one index per pixel is expected: are the classes' values [r, g, b]?")
    return channels[..., 0]


def _packed(pixels: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) uint8 as integers; see `pack_color`."""
    channels = pixels.astype(np.int32)
    return channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]


def pack_color(color: list[int]) -> int:
    """[r, g, b] as the integer that `read_values` returns."""
    return color[0] << 16 | color[1] << 8 | color[2]


def _palette(opened: Image.Image) -> tuple[tuple[int, int, int], ...] | None:
    flat = opened.getpalette("RGB") if opened.mode == "P" else None
    if not flat:
        return None
    return tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3))
