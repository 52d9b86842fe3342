"""Write a mask as TIFF from top to bottom, with the georeference of its image."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tifffile

STRIP = 1 << 20  # bytes before compression
CLASSIC_LIMIT = (1 << 32) - (1 << 26)  # bytes that a classic TIFF can address, with room for its tags


class Writer:
    """Write an 8-bit picture of one channel, deflated; the file appears when the context ends without an error."""

    def __init__(
        self, path: Path, size: tuple[int, int], byteorder: str, tags: Sequence[Any], palette: np.ndarray | None
    ) -> None:
        """palette: (256, 3) uint8. tags: further ones, as `tifffile` takes them; byteorder: "<" or ">"."""
        self.path, self.size, self.byteorder, self.tags, self.palette = path, size, byteorder, tags, palette
        self.tall = max(1, STRIP // size[1])
        self._rows: list[np.ndarray] = []
        self._waiting = 0
        self._lengths: list[int] = []

    def __enter__(self) -> Writer:
        self._strips = tempfile.TemporaryFile(dir=self.path.parent)  # closed by __exit__
        return self

    def write(self, rows: np.ndarray) -> None:
        """The next rows (n, W) uint8."""
        self._rows.append(rows)
        self._waiting += len(rows)
        if self._waiting >= self.tall:
            whole = np.concatenate(self._rows)
            end = len(whole) - len(whole) % self.tall
            for top in range(0, end, self.tall):
                self._deflate(whole[top : top + self.tall])
            self._rows, self._waiting = [whole[end:].copy()], len(whole) - end

    def _deflate(self, rows: np.ndarray) -> None:
        self._lengths.append(self._strips.write(zlib.compress(np.ascontiguousarray(rows).data, 6)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._strips:
            if kind is not None:
                return
            if self._waiting:
                self._deflate(np.concatenate(self._rows))
            big = self.size[0] * self.size[1] > CLASSIC_LIMIT
            with tifffile.TiffWriter(self.path, bigtiff=big, byteorder=self.byteorder) as file:  # type: ignore[arg-type]
                file.write(
                    self._compressed(), shape=self.size, dtype=np.uint8, compression="zlib", rowsperstrip=self.tall,
                    photometric="minisblack" if self.palette is None else "palette",
                    colormap=None if self.palette is None else self.palette.T.astype(np.uint16) * 257,
                    extratags=self.tags, metadata=None, software=False,
                )  # fmt: skip

    def _compressed(self) -> Iterator[bytes]:
        self._strips.seek(0)
        return (self._strips.read(length) for length in self._lengths)
