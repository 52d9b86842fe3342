"""Write an image's outputs: index mask with palette, overlay, confidence map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dualteacher.data.channels import shown
from dualteacher.data.formats.tiff import Page
from dualteacher.prediction.large import Band
from dualteacher.prediction.tiff_writer import Writer
from dualteacher.system import files

OPACITY = 0.5
OVERLAY_SIDE = 4096  # pixels; larger overlays are subsampled


@dataclass(frozen=True)
class Look:
    """Which optional outputs to write, and the classes' colours (256, 3) uint8."""

    palette: np.ndarray
    overlays: bool
    confidence: bool


class Files:
    """An image's outputs, written band by band: all of them appear when the context ends without an error."""

    def __init__(self, folder: Path, name: str, size: tuple[int, int], look: Look, tiff: Page | None) -> None:
        """tiff: write mask and confidence as TIFF with this image's georeference, else as PNG."""
        self.folder, self.name, self.size, self.look, self.tiff = folder, name, size, look, tiff
        self.step = math.ceil(max(size) / OVERLAY_SIDE)
        self.pixels = np.zeros(256, np.int64)
        self.paths: list[str] = []
        self._thin: list[np.ndarray] = []

    def __enter__(self) -> Files:
        with ExitStack() as stack:
            palette = self.look.palette
            self._mask = stack.enter_context(self._map("masks", palette))
            self._sure = stack.enter_context(self._map("confidence", None)) if self.look.confidence else None
            self._overlay = stack.enter_context(self._path("overlays", ".jpg")) if self.look.overlays else None
            self._stack = stack.pop_all()
        return self

    def write(self, band: Band) -> None:
        """Append the next rows."""
        self.pixels += np.bincount(band.labels.ravel(), minlength=256)
        self._mask.write(band.labels)
        if self._sure is not None and band.confidence is not None:
            self._sure.write(np.rint(band.confidence * 255).astype(np.uint8))
        if self._overlay is not None:
            rows = slice(-band.top % self.step, None, self.step)
            thin, labels = shown(band.pixels[rows, :: self.step]), band.labels[rows, :: self.step]
            over = OPACITY * self.look.palette[labels] + (1 - OPACITY) * thin
            self._thin.append(over.round().astype(np.uint8))

    def __exit__(self, *error: object) -> None:
        if error[0] is None and self._overlay is not None:
            Image.fromarray(np.concatenate(self._thin)).save(self._overlay, quality=92)
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    @contextmanager
    def _path(self, kind: str, ending: str) -> Iterator[Path]:
        path = f"{kind}/{self.name}{ending}"
        self.paths.append(path)
        with files.atomic(self.folder / path) as temporary:
            yield temporary

    @contextmanager
    def _map(self, kind: str, palette: np.ndarray | None) -> Iterator[Writer | Png]:
        with self._path(kind, ".png" if self.tiff is None else ".tif") as path:
            if self.tiff is None:
                writer: Writer | Png = Png(path, palette)
            else:
                writer = Writer(path, self.size, self.tiff.byteorder, self.tiff.georeference, palette)
            with writer:
                yield writer


class Png:
    """As `tiff_writer.Writer`, but held in memory until the end, a byte a pixel."""

    def __init__(self, path: Path, palette: np.ndarray | None) -> None:
        self.path, self.palette = path, palette
        self._rows: list[np.ndarray] = []

    def __enter__(self) -> Png:
        return self

    def write(self, rows: np.ndarray) -> None:
        self._rows.append(rows)

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            picture = Image.fromarray(np.concatenate(self._rows))
            if self.palette is not None:
                picture.putpalette(self.palette.tobytes())
            picture.save(self.path)
