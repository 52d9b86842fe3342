"""Read the first picture of a TIFF file, whole or by rows, so that memory need not grow with the image.

tifffile reads the directory, imagecodecs decodes strips and tiles: TIFF 6.0, BigTIFF, GeoTIFF, either byte order,
planes apart or interleaved. `open_page` leaves to Pillow what they do not decode to RGB: CMYK, CIELAB, fax compression.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from dualteacher.data import channels
from dualteacher.data.formats.errors import Unreadable
from dualteacher.data.pack import LARGEST

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # damage is raised, not logged

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
JPEG = 7
FAX_AND_OLD_JPEG = (2, 3, 4, 6)
MOST_PICTURES = 64  # of one band each
ALPHA = (1, 2)  # values of the tag ExtraSamples
GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)  # GeoTIFF 1.1, OGC 19-008r4, section 7.1.1
NODATA = 42113  # GDAL_NODATA, ASCII
PIECE = 1 << 20  # bytes read at once of an image stored uncompressed in one piece


class Page:
    """A file's first picture, or another. Rows are asked for from top to bottom; those above are not kept.

    Many programs write bands as pictures of one band each: they are one image's bands if the user has chosen bands.
    """

    def __init__(self, source: Path | bytes, number: int = 0) -> None:
        """Unreadable if the directory is damaged."""
        self._source = source
        with _damage(), tifffile.TiffFile(_file(source)) as file:
            page = file.pages[number]
            assert isinstance(page, tifffile.TiffPage)
            self.height, self.width = page.imagelength, page.imagewidth
            self.pictures = len(file.pages)
            self.byteorder: str = file.byteorder
            self.orientation = int(page.tags.valueof("Orientation", 1))
            self.bits, self.samples = page.bitspersample, page.samplesperpixel
            self.photometric, self.compression = int(page.photometric or 0), int(page.compression)
            self.alpha = bool(page.extrasamples) and int(page.extrasamples[-1]) in ALPHA
            self.nodata = _nodata(page)
            self.georeference = [] if self.orientation != 1 else _tags(page)
            self.colors = _palette(page) if self.photometric == PALETTE else None  # (n, 3) uint8
            self._planes = self.samples if int(page.planarconfig or 1) == 2 and self.samples > 1 else 1
            self._offsets, self._lengths = page.dataoffsets, page.databytecounts
            self._start = page.dataoffsets[0] if page.is_contiguous and page.is_memmappable else None
            self._tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
            self._tall, self._wide = (
                (page.tilelength, page.tilewidth)
                if page.is_tiled
                else (min(page.rowsperstrip, self.height), self.width)
            )
            self._dtype, self._decode = page.dtype, page.decode
        if min(self.height, self.width, self._tall, self._wide) < 1:
            raise Unreadable("damaged (a TIFF without pixels)")
        if self._start is not None:  # many programs write the whole image as one strip
            self._tall = max(1, PIECE // (self.width * self.samples * np.dtype(self._dtype).itemsize))
        self._across = math.ceil(self.width / self._wide)
        self._down = math.ceil(self.height / self._tall)
        if self._tall * self._wide > LARGEST:
            raise Unreadable(f"damaged (a TIFF in pieces of {self._tall}×{self._wide} pixels)")
        if self._start is None and len(self._offsets) != (wanted := self._across * self._down * self._planes):
            raise Unreadable(f"damaged (a TIFF of {len(self._offsets)} pieces where there should be {wanted})")
        self._kept: dict[int, np.ndarray] = {}

    @property
    def is_decoded_here(self) -> bool:
        """Whether `rows` gives RGB, grey or indices; else Pillow has to read the file."""
        known = self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE) or (
            self.photometric == YCBCR and self.compression == JPEG
        )
        return known and self.compression not in FAX_AND_OLD_JPEG

    @property
    def is_deep(self) -> bool:
        """Whether values are other than 0 … 255."""
        return self.colors is None and (self.bits > 8 or np.dtype(self._dtype).kind not in "bu")

    def notes(self, chosen: bool = False) -> tuple[str, ...]:
        """What is left out of the picture. chosen: whether the user has chosen its bands."""
        notes = []
        bands = self.samples - self.alpha
        if bands > 3 and not chosen:
            notes.append(f"holds {bands} bands: the first three are read as red, green and blue")
        elif bands == 2 and not chosen:
            notes.append("holds 2 bands: only the first is read")
        if self.pictures > 1 and not (chosen and self.further):
            notes.append(f"holds {self.pictures} pictures: only the first is read")
        return tuple(notes)

    @cached_property
    def further(self) -> list[Page]:
        """The file's other pictures, if all are like this one and of one band; else none."""
        if self.samples > 1 or self.colors is not None or not 1 < self.pictures <= MOST_PICTURES:
            return []
        others = [Page(self._source, number) for number in range(1, self.pictures)]
        return others if {other._likeness for other in others} == {self._likeness} else []

    @property
    def _likeness(self) -> tuple[object, ...]:
        return self.height, self.width, self.samples, self.bits, self._dtype, self.photometric, self.is_decoded_here

    def bands(self, top: int, bottom: int, chosen: bool) -> tuple[np.ndarray, int]:
        """(stored values of some rows, (n, W, bands), bits), with 0 for black and colours for a palette's indices.

        chosen: whether the user has chosen bands, see the class.
        """
        further = self.further if chosen else []
        parts = [page.values(top, bottom) for page in (self, *further)]
        values = np.concatenate(parts, axis=2) if further else parts[0]
        if self.colors is not None:
            return self.colors[values[..., 0]], 8
        if self.photometric == WHITE_IS_ZERO and values.dtype.kind in "bu":
            values = ~values if values.dtype.kind == "b" else ((1 << self.bits) - 1 - values).astype(values.dtype)
        return values, self.bits

    def values(self, top: int, bottom: int) -> np.ndarray:
        """What the file stores for some rows, (bottom - top, W, samples); Unreadable where it is damaged."""
        first, last = top // self._tall, (bottom - 1) // self._tall
        self._kept = {number: part for number, part in self._kept.items() if number >= first}
        missing = [number for number in range(first, last + 1) if number not in self._kept]
        if missing:
            with _damage(), _file(self._source) as file:
                self._kept |= {number: self._row_of_pieces(file, number) for number in missing}
        parts = [self._kept[number] for number in range(first, last + 1)]
        return np.concatenate(parts)[top - first * self._tall : bottom - first * self._tall]

    def _row_of_pieces(self, file: BinaryIO, number: int) -> np.ndarray:
        """A row of strips or tiles, cut to the image."""
        height = min(self._tall, self.height - number * self._tall)
        planes = []
        for plane in range(self._planes):
            if self._start is not None:
                planes.append(self._uncompressed(file, plane, number * self._tall, height))
                continue
            first = (plane * self._down + number) * self._across
            row = [self._piece(file, place) for place in range(first, first + self._across)]
            planes.append(np.concatenate(row, axis=1)[:height, : self.width])
        return np.concatenate(planes, axis=2)

    def _piece(self, file: BinaryIO, place: int) -> np.ndarray:
        """A strip or tile (h, w, samples)."""
        file.seek(self._offsets[place])
        data = file.read(self._lengths[place])
        if len(data) < self._lengths[place]:
            raise Unreadable("damaged (the file ends too early)")
        piece, _, shape = self._decode(data, place, **self._tables)
        if piece is None:
            raise Unreadable("damaged (a piece without pixels)")
        return piece[0] if piece.ndim == 4 else piece.reshape(shape[1:])

    def _uncompressed(self, file: BinaryIO, plane: int, top: int, height: int) -> np.ndarray:
        """Rows of an image that lies in the file as it is."""
        assert self._start is not None and self._dtype is not None
        samples = self.samples if self._planes == 1 else 1
        dtype = self._dtype.newbyteorder(self.byteorder)  # type: ignore[arg-type]
        row = self.width * samples * dtype.itemsize
        file.seek(self._start + (plane * self.height + top) * row)
        data = file.read(height * row)
        if len(data) < height * row:
            raise Unreadable("damaged (the file ends too early)")
        return np.frombuffer(data, dtype).astype(self._dtype).reshape(height, self.width, samples)

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Pixels (bottom - top, W, 3) uint8 as stored, not turned; Unreadable where they are damaged."""
        return rgb(self.eight_bits(self.values(top, bottom)))

    def eight_bits(self, values: np.ndarray) -> np.ndarray:
        """Stored values as uint8, (n, W) if the picture is grey, else (n, W, 3). Of more bits, the upper 8 are kept."""
        if self.colors is not None:
            return self.colors[values[..., 0]]
        values = channels.eight_bits(values, self.bits)
        if self.photometric == WHITE_IS_ZERO:
            values = 255 - values
        return values[..., :3] if self.samples - self.alpha >= 3 else values[..., 0]


def rgb(pixels: np.ndarray) -> np.ndarray:
    """Grey (H, W) or RGB (H, W, 3) → (H, W, 3)."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def open_page(source: Path | bytes) -> Page | None:
    """The first picture; None if the file is no TIFF, or one for Pillow. Unreadable if it is damaged."""
    with _file(source) as file:
        if file.read(4) not in MAGIC:
            return None
    page = Page(source)
    return page if page.is_decoded_here else None


def _palette(page: tifffile.TiffPage) -> np.ndarray:
    if page.colormap is None:
        raise Unreadable("damaged (a TIFF with a palette that is missing)")
    return (page.colormap >> 8).astype(np.uint8).T


def _nodata(page: tifffile.TiffPage) -> float | None:
    """GDAL's nodata value."""
    try:
        return float(str(page.tags.valueof(NODATA)).strip(" \0"))
    except ValueError:  # no such tag
        return None


def _tags(page: tifffile.TiffPage) -> list[tuple[int, int, int, Any, bool]]:
    """Where on Earth the pixels lie, as `extratags` of tifffile."""
    found = [page.tags[code] for code in GEOREFERENCE if code in page.tags]
    return [(tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in found]


def _file(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


@contextmanager
def _damage() -> Iterator[None]:
    """Any error of the decoders becomes `Unreadable`."""
    try:
        yield
    except (Unreadable, MemoryError, OSError):
        raise
    except Exception as error:  # decoders raise anything on damaged files
        raise Unreadable(f"damaged ({' '.join(str(error).split()) or type(error).__name__})") from error
