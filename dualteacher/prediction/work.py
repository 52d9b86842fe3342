"""The prediction loop: reading ahead, running the network and writing overlap."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from dualteacher.data.formats.images import Unreadable
from dualteacher.inference.predictor import Predictor
from dualteacher.machine.interrupt import Request
from dualteacher.prediction import reading, video
from dualteacher.prediction.bands import Bands
from dualteacher.prediction.inputs import Input
from dualteacher.prediction.large import Band
from dualteacher.prediction.options import Options
from dualteacher.prediction.outputs import Files, Look
from dualteacher.prediction.reading import Decoded, Failure, Opened
from dualteacher.prediction.record import Record, stamp
from dualteacher.system import console, os_errors, parallel
from dualteacher.system.console import logger

WRITERS = 4  # threads
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # would fail for the next image too


@dataclass(frozen=True)
class Result:
    """A finished image, its files below the output folder, and its pixels per class."""

    image: Opened
    paths: list[str]
    pixels: np.ndarray


class StopRequested(Exception):
    """A stop was requested in the middle of a large image."""


class Work:
    """One call of `predict`. finished, before: number of images done by this call and by earlier ones."""

    def __init__(self, predictor: Predictor, record: Record, look: Look, options: Options, stop: Request) -> None:
        self.record, self.look, self.options, self.stop = record, look, options, stop
        self.bands = Bands(predictor, options, look.confidence)
        self.large, self.classes = self.bands.large, predictor.model.num_classes
        self.channels = predictor.model.channels
        self.finished = self.before = 0
        self.ahead = 1 if self.bands.device.type == "cuda" else 0  # batches started before a result is fetched

    def through(self, jobs: Sequence[Input], read_video: Callable[[Path], video.Frames] | None) -> list[Failure]:
        """Predict all unfinished images and return the failures. Returns early if a stop is requested."""
        pictures, videos = [job for job in jobs if not job.video], [job for job in jobs if job.video]
        todo = [job for job in pictures if not self._done(job.name, job.file)]
        self.before = len(pictures) - len(todo)
        if self.before:
            logger.info("%s: %d of %d images already done", self.record.folder, self.before, len(pictures))
        opened: Iterable[Opened | Failure] = reading.opened(todo, self.large, self.channels)
        if read_video is not None:
            opened = chain(opened, *(self._frames(job, read_video) for job in videos))
        writes = self._writes(reading.batches(opened, self.bands.inference.batch, self.large))
        results = parallel.ordered(writes, min(WRITERS, parallel.cores()))
        failed = []
        for result in console.progress(results, "predict", total=None if videos else len(todo), unit="image"):
            if isinstance(result, Failure):
                failed.append(result)
            else:
                image = result.image
                self.record.add(image.name, image.file, image.stamp, result.paths, result.pixels)
                self.finished += 1
        return failed

    def _done(self, name: str, file: Path) -> bool:
        try:
            return self.record.has(name, file) and not self.options.redo
        except OSError:  # gone or inaccessible: reading it reports why
            return False

    def _frames(self, job: Input, read: Callable[[Path], video.Frames]) -> Iterator[Opened | Failure]:
        """The unfinished frames of a video, named NAME/000000, …."""
        try:
            taken = stamp(job.file)
            for number, pixels in enumerate(read(job.file)):
                name = f"{job.name}/{number:06d}"
                if number % self.options.every:
                    continue
                if self._done(name, job.file):
                    self.before += 1
                else:
                    frame = Decoded(pixels, self.channels)
                    frame.pixels  # noqa: B018 - Unreadable if the frame lacks bands
                    yield Opened(name, job.file, taken, frame, None)
        except (OSError, Unreadable) as error:
            yield Failure(job.file, " ".join(str(error).split()))

    def _writes(self, batches: Iterable[list[Opened] | Failure]) -> Iterator[Callable[[], Result | Failure]]:
        """Run the network; yield the writing of each image as a task for another thread."""
        started: deque[Iterator[Callable[[], Result | Failure]]] = deque()
        for batch in batches:
            if self.stop.signal is not None:
                break
            if isinstance(batch, Failure):
                yield partial(_itself, batch)
            elif batch[0].pixels > self.large:
                try:
                    yield partial(_itself, self._write(batch[0], partial(self._sweep, batch[0])))
                except StopRequested:
                    break
            else:
                started.append(self._of_batch(batch, self.bands.of_batch(batch)))
                if len(started) > self.ahead:
                    yield from started.popleft()
        for writes in started:
            yield from writes

    def _of_batch(
        self, batch: Sequence[Opened], bands: Callable[[], Iterator[Band]]
    ) -> Iterator[Callable[[], Result | Failure]]:
        for image, band in zip(batch, bands(), strict=True):
            yield partial(self._write, image, partial(iter, [band]))

    def _sweep(self, image: Opened) -> Iterator[Band]:
        """Predict a large image window by window; StopRequested between two rows of windows."""
        for band in self.bands.of_large(image):
            if self.stop.signal is not None:
                raise StopRequested
            yield band

    def _write(self, image: Opened, bands: Callable[[], Iterator[Band]]) -> Result | Failure:
        """Write an image's files; return a Failure if it cannot be read or written."""
        try:
            parts = bands()
            first = next(parts)  # the size is final once the image is decoded
            size = (image.source.height, image.source.width)
            with Files(self.record.folder, image.name, size, self.look, image.page) as written:
                for band in chain([first], parts):
                    written.write(band)
            return Result(image, written.paths, written.pixels[: self.classes])
        except Unreadable as error:
            return Failure(image.file, " ".join(str(error).split()))
        except OSError as error:
            if error.errno in FATAL:
                raise
            return Failure(image.file, f"cannot be read, or its outputs cannot be written: {os_errors.explain(error)}")


def _itself(result: Result | Failure) -> Result | Failure:
    return result
