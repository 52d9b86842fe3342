"""TIFF files read and written in pieces, so that memory does not grow with the image.

A strip or tile is made a small TIFF of its own, which the reader of all other images decodes: so every compression
that Pillow knows is read, and the pixels are those of the whole file. Masks are written as deflated strips.
TIFF 6.0 and BigTIFF; georeference is carried as it is (GeoTIFF 1.1, OGC 19-008r4, section 7.1.1).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np

from dualteacher.data.formats import images
from dualteacher.data.formats.images import Unreadable

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIP_OFFSETS, ORIENTATION = 256, 257, 258, 259, 262, 273, 274
SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR, COLORMAP, EXTRA, SAMPLE_FORMAT = 277, 278, 279, 284, 320, 338, 339
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
# What a decoder has to know: with fill order, predictor, JPEG tables, chroma sampling and reference values.
DECODING = (BITS, COMPRESSION, PHOTOMETRIC, 266, SAMPLES, 317, COLORMAP, EXTRA, SAMPLE_FORMAT, 347, 529, 530, 531, 532)
GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)  # pixel scale, tie points, transformation, three of keys
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}  # types that hold unsigned whole numbers
SHORT, LONG, LONG8 = 3, 4, 16
DEFLATE = 8
PIECE = 1 << 20  # bytes of a strip that is written, and of a piece of an uncompressed one that is read
CLASSIC_LIMIT = (1 << 32) - (1 << 26)  # bytes that a classic TIFF can address, with room for its tags


class Entry(NamedTuple):
    """A tag's value as it stands in the file, in the file's byte order."""

    kind: int
    length: int
    data: bytes


class Directory:
    """The tags of a file's first picture."""

    def __init__(self, order: str, entries: dict[int, Entry]) -> None:
        self.order, self.entries = order, entries  # order: struct's "<" or ">"
        self.size = (self.number(HEIGHT), self.number(WIDTH))

    def numbers(self, tag: int) -> tuple[int, ...]:
        """The whole numbers of a tag; Unreadable if it is missing or holds something else."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind not in WHOLE or not entry.length:
            raise Unreadable(f"damaged (TIFF tag {tag} is missing or no number)")
        return struct.unpack(f"{self.order}{entry.length}{WHOLE[entry.kind]}", entry.data)

    def number(self, tag: int, default: int | None = None) -> int:
        """The first number of a tag, or `default` where it is missing."""
        return default if default is not None and tag not in self.entries else self.numbers(tag)[0]

    @property
    def georeference(self) -> dict[int, Entry]:
        """Where on Earth the pixels lie; empty for a plain picture, and for one that has to be turned."""
        if self.number(ORIENTATION, 1) != 1:
            return {}
        return {tag: self.entries[tag] for tag in GEOREFERENCE if tag in self.entries}


def read_directory(path: Path) -> Directory | None:
    """The first directory of a TIFF file, None for any other file; Unreadable if it is damaged."""
    with open(path, "rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or head[2:4] not in (struct.pack(f"{order}H", 42), struct.pack(f"{order}H", 43)):
            return None
        big = struct.unpack(f"{order}H", head[2:4])[0] == 43
        try:
            start = struct.unpack(f"{order}Q", head[8:16])[0] if big else struct.unpack(f"{order}I", head[4:8])[0]
            return Directory(order, _entries(file, start, order, big, path.stat().st_size))
        except Unreadable:
            raise
        except (struct.error, OverflowError, ValueError) as error:
            raise Unreadable(f"damaged ({error})") from None


def _entries(file: BinaryIO, start: int, order: str, big: bool, end: int) -> dict[int, Entry]:
    """The directory at `start`; nothing is believed that would reach beyond the file's end."""
    count_form, form, room = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    file.seek(start)
    (number,) = struct.unpack(order + count_form, file.read(struct.calcsize(order + count_form)))
    length = struct.calcsize(order + form)
    if number * length > end:
        raise ValueError("a TIFF directory longer than the file")
    entries = {}
    for tag, kind, count, value in struct.iter_unpack(order + form, file.read(number * length)):
        size = SIZES.get(kind, 0) * count
        if size > end:
            raise ValueError(f"TIFF tag {tag} is longer than the file")
        if size > room:
            file.seek(struct.unpack(order + ("Q" if big else "I"), value)[0])
            value = file.read(size)
        if len(value) < size:
            raise ValueError("the file ends too early")
        entries[tag] = Entry(kind, count if size else 0, value[:size])
    return entries


class Segments:
    """Rows of a TIFF image of any size; what is decoded is kept until the rows asked for lie below it."""

    def __init__(self, path: Path, directory: Directory) -> None:
        """Unreadable where the file's layout is not one that can be read in pieces."""
        self.path, self.directory = path, directory
        self.height, self.width = directory.size
        if directory.number(ORIENTATION, 1) != 1:
            raise Unreadable("is turned by its orientation tag: save so large an image upright")
        self.samples = directory.number(SAMPLES, 1)
        self.planes = self.samples if directory.number(PLANAR, 1) == 2 else 1
        if self.planes > 1 and directory.number(PHOTOMETRIC) != 2:
            raise Unreadable("holds planes that are not red, green and blue: save it with interleaved samples")
        tiled = TILE_WIDTH in directory.entries
        self.wide = directory.number(TILE_WIDTH if tiled else WIDTH)
        strip = min(directory.number(ROWS_PER_STRIP, self.height), self.height)
        self.tall = directory.number(TILE_LENGTH) if tiled else strip
        self.offsets = list(directory.numbers(TILE_OFFSETS if tiled else STRIP_OFFSETS))
        self.lengths = list(directory.numbers(TILE_BYTES if tiled else STRIP_BYTES))
        if min(self.height, self.width, self.wide, self.tall) < 1:
            raise Unreadable("damaged (a TIFF without pixels)")
        if not tiled:
            self._cut()
        self.across, self.down = math.ceil(self.width / self.wide), math.ceil(self.height / self.tall)
        wanted = self.across * self.down * self.planes
        if not wanted == len(self.offsets) == len(self.lengths):
            raise Unreadable(f"damaged (a TIFF of {len(self.offsets)} pieces where there should be {wanted})")
        self._kept: dict[int, np.ndarray] = {}

    def _cut(self) -> None:
        """Take uncompressed strips as several short ones: many programs write the whole image as one."""
        bits = sum(self.directory.numbers(BITS)) if BITS in self.directory.entries else 1
        row = self.width * bits // 8
        if self.directory.number(COMPRESSION, 1) != 1 or self.planes > 1 or bits % 8 or row * self.tall <= PIECE:
            return
        last = self.height - (len(self.offsets) - 1) * self.tall
        rows = [self.tall] * (len(self.offsets) - 1) + [last]
        if last < 1 or [number * row for number in rows] != self.lengths:
            return
        if len(self.offsets) == 1:
            short = max(1, PIECE // row)
        else:
            short = next(n for n in range(max(1, PIECE // row), 0, -1) if self.tall % n == 0)
        pieces = [
            (offset + top * row, min(short, number - top) * row)
            for offset, number in zip(self.offsets, rows, strict=True)
            for top in range(0, number, short)
        ]
        self.tall = short
        self.offsets, self.lengths = [piece[0] for piece in pieces], [piece[1] for piece in pieces]

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Pixels (bottom - top, W, 3) uint8; Unreadable where they are damaged."""
        first, last = top // self.tall, (bottom - 1) // self.tall
        self._kept = {number: part for number, part in self._kept.items() if number >= first}
        missing = [number for number in range(first, last + 1) if number not in self._kept]
        if missing:
            with open(self.path, "rb") as file:
                self._kept |= {number: self._decode(file, number) for number in missing}
        parts = [self._kept[number] for number in range(first, last + 1)]
        return np.concatenate(parts)[top - first * self.tall : bottom - first * self.tall]

    def _decode(self, file: BinaryIO, number: int) -> np.ndarray:
        """A row of segments, cut to the image."""
        height = min(self.tall, self.height - number * self.tall)
        stored = height if TILE_WIDTH not in self.directory.entries else self.tall
        across = []
        for column in range(self.across):
            place = number * self.across + column
            planes = [
                images.read_pixels(self._small(file, place + plane * self.across * self.down, stored, plane))
                for plane in range(min(self.planes, 3))
            ]
            across.append(planes[0] if self.planes == 1 else np.stack([plane[..., 0] for plane in planes], axis=2))
        return np.concatenate(across, axis=1)[:height, : self.width]

    def _small(self, file: BinaryIO, place: int, height: int, plane: int) -> bytes:
        """A segment as a file of its own."""
        file.seek(self.offsets[place])
        data = file.read(self.lengths[place])
        order = self.directory.order
        entries = {tag: self.directory.entries[tag] for tag in DECODING if tag in self.directory.entries}
        if self.planes > 1:
            entries.pop(EXTRA, None)
            bits = self.directory.numbers(BITS)
            alone = {BITS: bits[min(plane, len(bits) - 1)], PHOTOMETRIC: 1, SAMPLES: 1}
            entries |= {tag: number(order, value) for tag, value in alone.items()}
            if SAMPLE_FORMAT in entries:
                entries[SAMPLE_FORMAT] = number(order, self.directory.number(SAMPLE_FORMAT))
        layout = {WIDTH: self.wide, HEIGHT: height, STRIP_OFFSETS: 8, ROWS_PER_STRIP: height, STRIP_BYTES: len(data)}
        entries |= {tag: number(order, value) for tag, value in layout.items()}
        data += b"\0" * (len(data) % 2)
        return header(order, False, 8 + len(data)) + data + directory_bytes(order, False, 8 + len(data), entries)


class Writer:
    """Write an 8-bit picture of one channel from top to bottom; it is complete when the context ends well."""

    def __init__(
        self, path: Path, size: tuple[int, int], order: str, entries: Mapping[int, Entry], palette: np.ndarray | None
    ) -> None:
        """palette: (256, 3) uint8. order, entries: further tags and the byte order that they stand in."""
        self.path, self.order, self.entries, self.palette = path, order, dict(entries), palette
        self.height, self.width = size
        self.big = self.height * self.width > CLASSIC_LIMIT
        self.tall = max(1, PIECE // self.width)
        self._rows: list[np.ndarray] = []
        self._waiting = 0
        self._places: list[tuple[int, int]] = []

    def __enter__(self) -> Writer:
        self._file = open(self.path, "wb")  # closed by __exit__
        self._file.write(b"\0" * (16 if self.big else 8))
        return self

    def write(self, rows: np.ndarray) -> None:
        """The next rows (n, W) uint8."""
        self._rows.append(rows)
        self._waiting += len(rows)
        if self._waiting >= self.tall:
            whole = np.concatenate(self._rows)
            end = len(whole) - len(whole) % self.tall
            for top in range(0, end, self.tall):
                self._strip(whole[top : top + self.tall])
            self._rows, self._waiting = [whole[end:].copy()], len(whole) - end

    def _strip(self, rows: np.ndarray) -> None:
        data = zlib.compress(np.ascontiguousarray(rows).data, 6)
        self._places.append((self._file.tell(), len(data)))
        self._file.write(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                if self._waiting:
                    self._strip(np.concatenate(self._rows))
                start = self._file.tell() + self._file.tell() % 2  # a directory lies at an even place
                self._file.seek(start)
                self._file.write(directory_bytes(self.order, self.big, start, self._tags()))
                self._file.seek(0)
                self._file.write(header(self.order, self.big, start))

    def _tags(self) -> dict[int, Entry]:
        wide = LONG8 if self.big else LONG
        simple = {
            WIDTH: self.width, HEIGHT: self.height, BITS: 8, COMPRESSION: DEFLATE, SAMPLES: 1,
            ROWS_PER_STRIP: self.tall, PHOTOMETRIC: 1 if self.palette is None else 3,
        }  # fmt: skip
        tags = {tag: number(self.order, value) for tag, value in simple.items()}
        tags[STRIP_OFFSETS] = numbers(self.order, wide, [place for place, _ in self._places])
        tags[STRIP_BYTES] = numbers(self.order, wide, [length for _, length in self._places])
        if self.palette is not None:
            tags[COLORMAP] = numbers(self.order, SHORT, (self.palette.astype(int).T * 257).ravel().tolist())
        return self.entries | tags


def number(order: str, value: int) -> Entry:
    """One whole number: of 16 bits where it fits, as readers expect of the small ones."""
    return numbers(order, SHORT if value < 1 << 16 else LONG, [value])


def numbers(order: str, kind: int, values: list[int]) -> Entry:
    return Entry(kind, len(values), struct.pack(f"{order}{len(values)}{WHOLE[kind]}", *values))


def header(order: str, big: bool, start: int) -> bytes:
    """A file's first bytes; its directory lies at `start`."""
    mark = b"II" if order == "<" else b"MM"
    return mark + (struct.pack(f"{order}HHHQ", 43, 8, 0, start) if big else struct.pack(f"{order}HI", 42, start))


def directory_bytes(order: str, big: bool, start: int, entries: Mapping[int, Entry]) -> bytes:
    """A directory that lies at `start`, the values that do not fit into it behind it."""
    count_form, form, place_form, room = ("Q", "HHQ8s", "Q", 8) if big else ("H", "HHI4s", "I", 4)
    size = struct.calcsize(order + form)
    result = struct.pack(order + count_form, len(entries))
    behind = start + len(result) + len(entries) * size + struct.calcsize(order + place_form)
    values = b""
    for tag, entry in sorted(entries.items()):
        data = entry.data
        if len(data) > room:
            values += b"\0" * (len(values) % 2)
            data, values = struct.pack(order + place_form, behind + len(values)), values + data
        result += struct.pack(order + form, tag, entry.kind, entry.length, data.ljust(room, b"\0"))
    return result + struct.pack(order + place_form, 0) + values
