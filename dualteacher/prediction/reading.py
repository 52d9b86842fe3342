"""Open images ahead of the network and group them by size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from dualteacher.core.labels import IGNORE
from dualteacher.data.channels import Channels, levels
from dualteacher.data.formats import images, tiff
from dualteacher.prediction.inputs import Input
from dualteacher.prediction.large import Band, RowSource
from dualteacher.prediction.record import stamp
from dualteacher.system import os_errors, parallel

READERS = 4  # threads; decoding an image takes about as long as predicting it
WAITING_BATCHES = 4  # pixels that may wait for more images of their size, in batches


@dataclass(frozen=True)
class Failure:
    """A file that could not be read or written."""

    file: Path
    reason: str


class Decoded:
    """An image in memory, decoded at the first access to its pixels."""

    def __init__(self, data: bytes | np.ndarray, channels: Channels) -> None:
        """data: a file's content, or its stored values (H, W, bands); of ordinary channels, pixels (H, W, 3) uint8."""
        self._data: bytes | np.ndarray | None = data
        self.channels = channels
        self._missing: np.ndarray | None = None  # known once decoded
        self.height, self.width = images.size(data) if isinstance(data, bytes) else data.shape[:2]

    @cached_property
    def pixels(self) -> np.ndarray:
        """Levels (H, W, C), upright."""
        data, self._data = self._data, None
        assert data is not None
        if self.channels.ordinary:
            pixels = images.read_pixels(data) if isinstance(data, bytes) else data
        else:
            if isinstance(data, bytes):
                stored = images.read_stored(data, self.channels.bands is not None)
            else:
                stored = images.Stored(data, 8 * data.dtype.itemsize, 1, 1, None, ())
            kept, self._missing = images.scaled(stored, self.channels)
            pixels = levels(kept)
        self.height, self.width = pixels.shape[:2]  # turned upright
        return pixels

    def rows(self, top: int, bottom: int) -> np.ndarray:
        return self.pixels[top:bottom]

    def no_data(self, top: int, bottom: int) -> np.ndarray | None:
        return None if self._missing is None else self._missing[top:bottom]


class Scaled:
    """The chosen channels of a TIFF that is read by rows."""

    def __init__(self, page: tiff.Page, channels: Channels) -> None:
        self.page, self.channels = page, channels
        self.height, self.width = page.height, page.width

    def rows(self, top: int, bottom: int) -> np.ndarray:
        values, bits = self.page.bands(top, bottom, self.channels.bands is not None)
        self._top, self._missing = top, self.channels.missing(values, self.page.nodata)
        return levels(self.channels.take(values, bits))

    def no_data(self, top: int, bottom: int) -> np.ndarray:
        """Of rows that `rows` read last."""
        return self._missing[top - self._top : bottom - self._top]


def without_data(source: RowSource, band: Band) -> Band:
    """The band with label 255 and confidence 0 where the file has no data."""
    if not isinstance(source, Decoded | Scaled):
        return band
    missing = source.no_data(band.top, band.top + len(band.labels))
    if missing is None or not missing.any():
        return band
    confidence = None if band.confidence is None else np.where(missing, np.float32(0), band.confidence)
    return band._replace(labels=np.where(missing, np.uint8(IGNORE), band.labels), confidence=confidence)


@dataclass(frozen=True)
class Opened:
    """An image ready to be predicted."""

    name: str
    file: Path
    stamp: list[int]
    source: RowSource
    page: tiff.Page | None  # of a TIFF whose mask is to be one too

    @property
    def pixels(self) -> int:
        return self.source.height * self.source.width


def opened(jobs: Sequence[Input], large: int, channels: Channels) -> Iterator[Opened | Failure]:
    """Open images in order, in threads; those of at most `large` pixels are decoded there."""
    return parallel.ordered((partial(read, job, large, channels) for job in jobs), min(READERS, parallel.cores()))


def read(job: Input, large: int, channels: Channels) -> Opened | Failure:
    """Open one image."""
    try:
        taken = stamp(job.file)
        page = _page(job.file)
        if page is not None and page.height * page.width > large:
            if page.orientation != 1:
                raise images.Unreadable("is turned by its orientation tag: save so large an image upright")
            return Opened(job.name, job.file, taken, page if channels.ordinary else Scaled(page, channels), page)
        source = Decoded(job.file.read_bytes(), channels)
        if source.height * source.width <= large:
            source.pixels  # noqa: B018 - decode in this thread, not in the network's
        where = page if page is not None and page.georeference else None
        return Opened(job.name, job.file, taken, source, where)
    except OSError as error:
        return Failure(job.file, os_errors.explain(error))
    except images.Unreadable as error:
        return Failure(job.file, " ".join(str(error).split()))


def _page(file: Path) -> tiff.Page | None:
    """None too for a TIFF that only Pillow may be able to read."""
    try:
        return tiff.open_page(file)
    except images.Unreadable:
        return None


def batches(items: Iterable[Opened | Failure], batch: int, large: int) -> Iterator[list[Opened] | Failure]:
    """Group images of equal size into batches of at most `batch` images and `large` pixels.

    Larger images come alone. Failures are passed on at once. The pixels of images waiting for others of their size
    are limited, which bounds memory.
    """
    waiting: dict[tuple[int, int], list[Opened]] = {}
    pixels = 0
    for item in items:
        if isinstance(item, Failure):
            yield item
        elif item.pixels > large:
            yield [item]
        else:
            size = (item.source.height, item.source.width)
            group = waiting.setdefault(size, [])
            group.append(item)
            pixels += item.pixels
            while waiting and (full(group, batch, large) or pixels > WAITING_BATCHES * large):
                chosen = size if full(group, batch, large) else next(iter(waiting))
                done = waiting.pop(chosen)
                group = waiting.get(size, [])
                pixels -= len(done) * done[0].pixels
                yield done
    yield from waiting.values()


def full(group: list[Opened], batch: int, large: int) -> bool:
    """Whether another image of this size would exceed a limit."""
    return bool(group) and (len(group) >= batch or (len(group) + 1) * group[0].pixels > large)
