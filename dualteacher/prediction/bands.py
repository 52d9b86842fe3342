"""Run the network on opened images: in batches, or band by band for large ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from dualteacher.core.transfer import fetch
from dualteacher.inference.predictor import Predictor, to_tensor
from dualteacher.machine.precision import autocast
from dualteacher.prediction.large import Band, Sweep
from dualteacher.prediction.options import Options, largest
from dualteacher.prediction.reading import Opened, without_data
from dualteacher.system import console
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError


class Bands:
    """Predicts opened images.

    confidence, probabilities: what bands contain in addition to labels; probabilities include confidence. large:
    number of pixels above which an image is predicted window by window.
    """

    def __init__(self, predictor: Predictor, options: Options, confidence: bool, probabilities: bool = False) -> None:
        self.predictor, self.options = predictor, options
        self.confidence, self.probabilities = confidence or probabilities, probabilities
        self.inference, self.device = predictor.inference, predictor.device
        self.large = round(largest(options, predictor.inference) * 1e6)

    def of_batch(self, batch: Sequence[Opened]) -> Callable[[], Iterator[Band]]:
        """Start predicting images of equal size. The result waits for the device and yields one band per image."""
        pixels = [image.source.rows(0, image.source.height) for image in batch]
        with self._running():
            images = to_tensor(pixels, self.device)
            if self.probabilities:
                labels, *more = self.predictor.with_probabilities(images)
            elif self.confidence:
                labels, *more = self.predictor.with_confidence(images)
            else:
                labels, more = self.predictor(images), []
        maps = fetch([labels.to(torch.uint8), *more])

        def bands() -> Iterator[Band]:
            for image, picture, mask, *values in zip(
                batch, pixels, *(values.numpy() for values in maps()), strict=True
            ):
                confidence, probabilities = [*values, None, None][:2]
                yield without_data(image.source, Band(0, picture, mask, confidence, probabilities))

        return bands

    def of_large(self, image: Opened) -> Iterator[Band]:
        """Predict a large image window by window."""
        image.source.rows(0, 1)  # decodes the image if it cannot be read by rows, which fixes its upright size
        how = self.inference
        if how.resize is not None:
            logger.warning(
                "%s: predicting %.3g megapixels at full scale, but the network was trained on images scaled down;"
                " --large %.0f scales this one too, if memory allows",
                image.name, image.pixels / 1e6, np.ceil(image.pixels / 1e6),
            )  # fmt: skip
        detail = (self.confidence, self.probabilities)
        sweep = Sweep(self.predictor, image.source, how.window, how.stride, how.batch, *detail)
        bands = console.progress(sweep.bands(), image.name, total=len(sweep.grid.tops), unit="row of windows")
        while True:
            with self._running():  # only around the network: files are written outside
                band = next(bands, None)
            if band is None:
                return
            yield without_data(image.source, band)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Set the precision; turn running out of memory into a UserError."""
        try:
            with autocast(self.device, self.options.precision):
                yield
        except torch.OutOfMemoryError:
            raise UserError(
                f"{self.device}: out of memory; lower --batch (now {self.inference.batch}), --large (now"
                f" {self.large / 1e6:g}) or --window (now {self.inference.window}), and run the same command again"
            ) from None
