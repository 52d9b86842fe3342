"""Pictures as people have them, brought to what a pack holds: upright 8-bit RGB images, index masks.

An image file that a pack can hold as it is (JPEG or PNG, 8 bits, RGB or grey, upright) keeps its bytes; any
other is turned upright by its EXIF orientation and encoded again without loss as PNG. Of 16-bit values the
upper 8 bits are kept, transparency is dropped, and of several pictures in a file the first is read.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from dualteacher.data.pack import LARGEST

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
KEPT_FORMATS = ("JPEG", "MPO", "PNG")  # MPO: the JPEG of a phone that has a second picture behind it
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of damage; it is told as a finding
ORIENTATION = 0x0112  # EXIF tag: how the stored picture has to be turned to stand upright


class Unreadable(ValueError):
    """A file that is no image, is damaged, or holds what is not expected; says why in a few words."""


class Colored(Unreadable):
    """A mask that holds colours where one index a pixel is expected."""


class Picture(NamedTuple):
    """An upright image: pixels (H, W, 3) uint8, the bytes a pack stores, and how it was turned to get there."""

    pixels: np.ndarray
    data: bytes
    orientation: int  # EXIF's: 1 as stored … 8
    notes: tuple[str, ...]  # what was lost on the way


def is_image(path: Path | str) -> bool:
    """By its name; hidden files (`._x.jpg` of a Mac's archives) are none."""
    path = Path(path)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def size(data: bytes) -> tuple[int, int]:
    """(H, W) as stored, from the header alone; `Unreadable` if it is no image."""
    with _opened(data) as opened:
        return opened.height, opened.width


def read_image(data: bytes) -> Picture:
    """Decode a whole image file; `Unreadable` if any of it is damaged."""
    plain, as_it_is, turned, notes = _decoded(data)
    return Picture(_rgb(plain), data if as_it_is else png(plain), turned, notes)


def read_pixels(data: bytes) -> np.ndarray:
    """`read_image`'s pixels (H, W, 3) alone: nothing is encoded for storing."""
    return _rgb(_decoded(data)[0])


def _decoded(data: bytes) -> tuple[np.ndarray, bool, int, tuple[str, ...]]:
    """Upright pixels (H, W) or (H, W, 3) uint8, whether the file can be stored as it is, how it was turned, notes."""
    with _opened(data) as opened:
        deep = "16" in str([tile[3] for tile in getattr(opened, "tile", [])]) or opened.mode.startswith("I")
        as_it_is = opened.format in KEPT_FORMATS and opened.mode in ("RGB", "L") and not deep
        notes = _notes(opened, deep)
        turned, left = _load(opened)
        if as_it_is and left == 1:
            return np.asarray(opened.convert("RGB")), True, 1, notes
        return upright(_eight_bits(opened), left), False, turned, notes


def _rgb(plain: np.ndarray) -> np.ndarray:
    return plain if plain.ndim == 3 else np.repeat(plain[..., None], 3, axis=2)


def thin(size: tuple[int, ...], side: int) -> tuple[slice, slice]:
    """Every k-th row and column of an image (H, W, …), from the middle of the first k: at most `side`, at least one."""
    step = -(-max(size[:2]) // side)
    top, left = (min(step // 2, length - 1) for length in size[:2])
    return slice(top, None, step), slice(left, None, step)


def png(pixels: np.ndarray) -> bytes:
    """uint8 (H, W) or (H, W, 3) as PNG; the same pixels give the same bytes."""
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


class Values(NamedTuple):
    """What a mask file holds, upright by its own EXIF: (H, W) integers; colours as r << 16 | g << 8 | b."""

    values: np.ndarray
    grey_as_color: bool  # an index stored as three equal channels
    palette: tuple[tuple[int, int, int], ...] | None  # how the file shows its indices


def read_values(data: bytes, color: bool) -> Values:
    """Decode a mask file to indices or (`color`) to packed colours.

    An index is what is stored: a palette's entry, a grey value of 8 or 16 bits, 0 and 1 of a 1-bit file.
    `Unreadable` too where colours stand in place of an index.
    """
    with _opened(data) as opened:
        _, left = _load(opened)
        grey_as_color, palette = False, None
        if color:
            channels = np.asarray(opened.convert("RGB")).astype(np.int32)
            values = channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]
        elif opened.mode in ("1", "L", "P", "I") or opened.mode.startswith("I;16"):
            values = np.asarray(opened).astype(np.int32)
            palette = _palette(opened)
        elif opened.mode in ("LA", "PA"):
            values = np.asarray(opened)[..., 0].astype(np.int32)
        elif opened.mode in ("RGB", "RGBA"):
            channels = np.asarray(opened)[..., :3]
            if (channels != channels[..., :1]).any():
                raise Colored(
                    "holds colours (RGB) where one index a pixel is expected: are the classes' values [r, g, b]?"
                )
            grey_as_color, values = True, channels[..., 0].astype(np.int32)
        else:
            raise Unreadable(f"holds pixels of mode {opened.mode} where one index a pixel is expected")
    return Values(upright(values, left), grey_as_color, palette)


def pack_color(color: list[int]) -> int:
    """[r, g, b] as `read_values` gives it."""
    return color[0] << 16 | color[1] << 8 | color[2]


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open an image; whatever goes wrong with it inside comes as `Unreadable`."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > LARGEST:
                raise Unreadable(f"has {opened.height}×{opened.width} pixels, more than {LARGEST}: cut it into tiles")
            yield opened
    except (Unreadable, MemoryError):
        raise
    except UnidentifiedImageError:
        raise Unreadable("not an image, or damaged" if data else "an empty file") from None
    except Exception as error:  # decoders meet damage with any kind of exception
        raise Unreadable(f"damaged ({' '.join(str(error).split()) or type(error).__name__})") from error


def _load(opened: Image.Image) -> tuple[int, int]:
    """Decode; (how the stored picture is turned to stand upright, what of that is left to do)."""
    stored = _orientation(opened)
    opened.load()
    left = _orientation(opened)  # TIFF has turned itself now; PNG may tell the orientation at its end
    return (left if left != 1 else stored), left


def _orientation(opened: Image.Image) -> int:
    try:
        found = opened.getexif().get(ORIENTATION, 1)
    except Exception:  # broken EXIF comes as anything; the picture itself is fine
        return 1
    return found if found in range(1, 9) else 1


def _eight_bits(opened: Image.Image) -> np.ndarray:
    """uint8, (H, W) where the picture is grey, else (H, W, 3)."""
    if opened.mode.startswith("I"):
        values = np.asarray(opened)
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise Unreadable("holds 32-bit values: save it with 8 or 16 bits a channel")
        return (values >> 8).astype(np.uint8)
    if opened.mode == "F":
        raise Unreadable("holds floating-point values: save it with 8 or 16 bits a channel")
    return np.asarray(opened.convert("L" if opened.mode in ("1", "L", "LA") else "RGB"))


def _notes(opened: Image.Image, deep: bool) -> tuple[str, ...]:
    """Losses that somebody may not expect."""
    notes = []
    if deep and opened.mode.startswith("I"):
        low, high = opened.getextrema()
        if isinstance(high, int | float) and high < 0x1000 and low != high:
            notes.append(f"16-bit values reach only {high:.0f} of 65535: almost black in 8 bits, rescale them first")
    if opened.format in ("TIFF", "WEBP", "PNG") and getattr(opened, "n_frames", 1) > 1:
        notes.append(f"holds {opened.n_frames} pictures: only the first is read")  # type: ignore[attr-defined]
    return tuple(notes)


def _palette(opened: Image.Image) -> tuple[tuple[int, int, int], ...] | None:
    flat = opened.getpalette("RGB") if opened.mode == "P" else None
    if not flat:
        return None
    return tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3))
