"""Images as they come, opened a little ahead of the network, and put together by size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from dualteacher.data.formats import images, tiff
from dualteacher.prediction.inputs import Input
from dualteacher.prediction.large import Source
from dualteacher.prediction.record import stamp
from dualteacher.system import os_errors, parallel

READERS = 4  # threads; an image is decoded in about the time that the network takes for it
ONE_SIZE_AFTER_ANOTHER = 4  # batches' pixels that wait for more images of their size


@dataclass(frozen=True)
class Failure:
    """A file that could not be read or written."""

    file: Path
    reason: str


class Decoded:
    """An image in memory; a large one is decoded when its rows are asked for."""

    def __init__(self, data: bytes | np.ndarray) -> None:
        self._data: bytes | np.ndarray | None = data
        self.height, self.width = images.size(data) if isinstance(data, bytes) else data.shape[:2]

    @cached_property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8, upright."""
        data, self._data = self._data, None
        pixels = images.read_pixels(data) if isinstance(data, bytes) else data
        assert pixels is not None
        self.height, self.width = pixels.shape[:2]  # turned upright
        return pixels

    def rows(self, top: int, bottom: int) -> np.ndarray:
        return self.pixels[top:bottom]


@dataclass(frozen=True)
class Opened:
    """An image that can be predicted."""

    name: str
    file: Path
    stamp: list[int]
    source: Source
    page: tiff.Page | None  # of a TIFF whose mask is to be one too

    @property
    def pixels(self) -> int:
        return self.source.height * self.source.width


def opened(jobs: Sequence[Input], large: int) -> Iterator[Opened | Failure]:
    """Images in their order, those of at most `large` pixels decoded."""
    return parallel.ordered((partial(read, job, large) for job in jobs), min(READERS, parallel.cores()))


def read(job: Input, large: int) -> Opened | Failure:
    """Open one image."""
    try:
        taken = stamp(job.file)
        page = _page(job.file)
        if page is not None and page.height * page.width > large:
            if page.orientation != 1:
                raise images.Unreadable("is turned by its orientation tag: save so large an image upright")
            return Opened(job.name, job.file, taken, page, page)
        source = Decoded(job.file.read_bytes())
        if source.height * source.width <= large:
            source.pixels  # noqa: B018  # here, in a thread beside the network
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
    """Images of one size together, at most `batch` and `large` pixels; a larger one alone, failures as they come.

    Images wait for others of their size, but only so many that memory stays bounded.
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
            while waiting and (full(group, batch, large) or pixels > ONE_SIZE_AFTER_ANOTHER * large):
                chosen = size if full(group, batch, large) else next(iter(waiting))
                done = waiting.pop(chosen)
                group = waiting.get(size, [])
                pixels -= len(done) * done[0].pixels
                yield done
    yield from waiting.values()


def full(group: list[Opened], batch: int, large: int) -> bool:
    """Whether no further image of that size goes with these."""
    return bool(group) and (len(group) >= batch or (len(group) + 1) * group[0].pixels > large)
