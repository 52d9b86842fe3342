"""Read image files of any kind as upright images, of 8-bit RGB unless chosen otherwise; mask_files.py reads masks.

An image file that a pack can hold unchanged (JPEG or PNG, 8 bits, RGB or grey, upright) keeps its bytes; any other is
turned upright by its EXIF orientation and re-encoded losslessly as PNG. 16-bit values keep their upper 8 bits,
transparency is dropped, and only the first picture of a file is read. With chosen bands or a range of values
(channels.py), the stored values are read and scaled; a pack holds other than three channels, and 16 bits, as a NumPy
array.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import imagecodecs
import numpy as np
from PIL import Image, UnidentifiedImageError

from dualteacher.data import pack
from dualteacher.data.channels import RGB, SAVE_AS, Channels, levels
from dualteacher.data.formats import file_kinds, tiff
from dualteacher.data.formats.errors import Unreadable as Unreadable
from dualteacher.data.formats.tiff import rgb as rgb
from dualteacher.data.pack import LARGEST

KEPT_FORMATS = ("JPEG", "MPO", "PNG")  # MPO: a JPEG with more pictures appended, from phones
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # damage is reported as a finding instead
ORIENTATION = 0x0112  # EXIF tag


class Picture(NamedTuple):
    """An upright image and the bytes that a pack stores."""

    pixels: np.ndarray  # (H, W, C) levels
    data: bytes
    orientation: int  # EXIF orientation that was applied; 1: none
    notes: tuple[str, ...]  # unexpected losses
    missing: np.ndarray | None = None  # (H, W) bool: no data; only with chosen bands or range


class Stored(NamedTuple):
    """An image's values as its file stores them."""

    values: np.ndarray  # (H, W, bands), not turned
    bits: int  # of a value
    remaining: int  # EXIF orientation to turn the values by
    orientation: int  # EXIF orientation of the file
    nodata: float | None  # the value that means no data
    notes: tuple[str, ...]


def size(data: bytes) -> tuple[int, int]:
    """(H, W) as stored, from the header; `Unreadable` if it is not an image."""
    page = tiff.open_page(data)
    if page is not None:
        return page.height, page.width
    with open_image(data) as opened:
        return opened.height, opened.width


def read_image(data: bytes, channels: Channels = RGB) -> Picture:
    """Decode an image file; `Unreadable` if any of it is damaged."""
    if not channels.ordinary:
        stored = read_stored(data, channels.bands is not None)
        dark = _dark(stored.values, stored.bits) if channels.limits is None else ()
        pixels, missing = scaled(stored, channels)
        data = png(pixels) if channels.count == 3 and channels.depth == 8 else pack.encode_array(pixels)
        return Picture(levels(pixels), data, stored.orientation, dark + stored.notes, missing)
    pixels, unchanged, orientation, notes = _decoded(data)
    return Picture(rgb(pixels), data if unchanged else png(pixels), orientation, notes)


def read_pixels(data: bytes, channels: Channels = RGB) -> np.ndarray:
    """The pixels of `read_image`, without encoding anything."""
    if not channels.ordinary:
        return levels(scaled(read_stored(data, channels.bands is not None), channels)[0])
    return rgb(_decoded(data)[0])


def scaled(stored: Stored, channels: Channels) -> tuple[np.ndarray, np.ndarray | None]:
    """Upright (pixels (H, W, C) as a pack keeps them, where there is no data (H, W) bool; None: nowhere)."""
    pixels = upright(channels.take(stored.values, stored.bits), stored.remaining)
    missing = upright(channels.missing(stored.values, stored.nodata), stored.remaining)
    return pixels, missing if missing.any() else None


def read_stored(data: bytes, chosen: bool) -> Stored:
    """Decode an image file to the values it stores. chosen: whether the user has chosen its bands; see `tiff.Page`."""
    page = tiff.open_page(data)
    if page is not None:
        _check_size(page.height, page.width)
        values, bits = page.bands(0, page.height, chosen)
        return Stored(values, bits, page.orientation, page.orientation, page.nodata, page.notes(chosen))
    with open_image(data) as opened:
        notes = _notes(opened, deep=False)
        orientation, remaining = decode(opened)
        values = _values(opened, data)
    return Stored(values, 8 * values.dtype.itemsize, remaining, orientation, None, notes)


def _values(opened: Image.Image, data: bytes) -> np.ndarray:
    """(H, W, bands), bytes unless the file holds more."""
    if opened.format == "PNG" and data[24] == 16:  # IHDR's bit depth; Pillow reduces colours to 8 bits
        values = np.asarray(imagecodecs.png_decode(data))
    elif opened.mode in ("L", "LA", "RGB", "RGBA") or opened.mode[0] in "IF":
        values = np.asarray(opened)
    else:
        values = np.asarray(opened.convert("L" if opened.mode == "1" else "RGB"))
    return values if values.ndim == 3 else values[..., None]


def _decoded(data: bytes) -> tuple[np.ndarray, bool, int, tuple[str, ...]]:
    """(upright pixels (H, W) or (H, W, 3) uint8, whether a pack can hold the file unchanged, orientation, notes)."""
    page = tiff.open_page(data)
    if page is not None:
        values = stored_values(page)
        pixels = upright(page.eight_bits(values), page.orientation)
        return pixels, False, page.orientation, _tiff_notes(page, values)
    with open_image(data) as opened:
        deep = "16" in str([tile[3] for tile in getattr(opened, "tile", [])]) or opened.mode.startswith("I")
        keepable = opened.format in KEPT_FORMATS and opened.mode in ("RGB", "L") and not deep
        notes = _notes(opened, deep)
        orientation, remaining = decode(opened)
        if keepable and remaining == 1:
            return np.asarray(opened.convert("RGB")), True, 1, notes
        return upright(_eight_bits(opened), remaining), False, orientation, notes


def thin(size: tuple[int, ...], side: int) -> tuple[slice, slice]:
    """Slices that keep every k-th row and column of an image (H, W, …), centred: between 1 and `side` of each."""
    step = -(-max(size[:2]) // side)
    top, left = (min(step // 2, length - 1) for length in size[:2])
    return slice(top, None, step), slice(left, None, step)


def png(pixels: np.ndarray) -> bytes:
    """Encode uint8 (H, W) or (H, W, 3) as PNG; the same pixels give the same bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an array (H, W, …) by an EXIF orientation."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def stored_values(page: tiff.Page) -> np.ndarray:
    """All stored values, (H, W, samples)."""
    _check_size(page.height, page.width)
    return page.values(0, page.height)


def _tiff_notes(page: tiff.Page, values: np.ndarray) -> tuple[str, ...]:
    return _dark(values, page.bits) + page.notes()


def _dark(values: np.ndarray, bits: int) -> tuple[str, ...]:
    """A note on integers of 16 or more bits that use only the lower ones."""
    if bits < 16 or values.dtype.kind not in "iu" or not values.size:
        return ()
    return _too_dark(int(values.min()), int(values.max()), bits)


def _check_size(height: int, width: int) -> None:
    if height * width > LARGEST:
        raise Unreadable(f"has {height}×{width} pixels, more than {LARGEST}: cut it into tiles")


def _too_dark(low: float, high: float, bits: int = 16) -> tuple[str, ...]:
    if high >= 0x1000 or low == high:
        return ()
    return (f"{bits}-bit values reach only {high:.0f} of 65535: almost black in 8 bits, set `range`",)


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """Open an image; any error inside the context becomes `Unreadable`."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            _check_size(opened.height, opened.width)
            yield opened
    except (Unreadable, MemoryError):
        raise
    except UnidentifiedImageError:
        if (unsupported := file_kinds.unsupported(data)) is not None:
            raise Unreadable(unsupported) from None
        raise Unreadable("not an image, or damaged" if data else "an empty file") from None
    except Exception as error:  # decoders raise anything on damaged files
        raise Unreadable(f"damaged ({' '.join(str(error).split()) or type(error).__name__})") from error


def decode(opened: Image.Image) -> tuple[int, int]:
    """Decode; (EXIF orientation of the file, the part of it that Pillow has not applied)."""
    stored = _orientation(opened)
    opened.load()
    remaining = _orientation(opened)  # Pillow applies a TIFF's itself; a PNG may store it after the pixels
    return (remaining if remaining != 1 else stored), remaining


def _orientation(opened: Image.Image) -> int:
    try:
        found = opened.getexif().get(ORIENTATION, 1)
    except Exception:  # broken EXIF raises anything; the picture itself is fine
        return 1
    return found if found in range(1, 9) else 1


def _eight_bits(opened: Image.Image) -> np.ndarray:
    """uint8, (H, W) if the picture is grey, else (H, W, 3)."""
    if opened.mode.startswith("I"):
        values = np.asarray(opened)
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise Unreadable(f"holds 32-bit values: {SAVE_AS}")
        return (values >> 8).astype(np.uint8)
    if opened.mode == "F":
        raise Unreadable(f"holds floating-point values: {SAVE_AS}")
    return np.asarray(opened.convert("L" if opened.mode in ("1", "L", "LA") else "RGB"))


def _notes(opened: Image.Image, deep: bool) -> tuple[str, ...]:
    """Warnings about content that is lost on reading."""
    notes: list[str] = []
    if deep and opened.mode.startswith("I"):
        notes += _too_dark(*opened.getextrema())  # type: ignore[arg-type]
    if opened.format in ("AVIF", "GIF", "HEIF", "PNG", "TIFF", "WEBP") and getattr(opened, "n_frames", 1) > 1:
        notes.append(f"holds {opened.n_frames} pictures: only the first is read")  # type: ignore[attr-defined]
    return tuple(notes)
