"""Read the frames of a video with PyAV or OpenCV, whichever is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dualteacher.data.formats.images import Unreadable
from dualteacher.system.errors import UserError

Frames = Iterator[np.ndarray]


def reader() -> Callable[[Path], Frames]:
    """Return a function that yields a video's frames, (H, W, 3) uint8 RGB; UserError if no library is installed."""
    for package, read in (("av", _pyav), ("cv2", _opencv)):
        try:
            importlib.import_module(package)
        except ImportError:
            continue
        return read
    raise UserError(
        "reading a video needs PyAV (`pip install av`) or OpenCV (`pip install opencv-python-headless`);"
        " or predict a folder of its frames"
    )


def _pyav(path: Path) -> Frames:
    av: Any = importlib.import_module("av")
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, IndexError) as error:  # IndexError: sound only
        raise Unreadable(f"damaged, or no video ({' '.join(str(error).split())})") from None


def _opencv(path: Path) -> Frames:
    cv2: Any = importlib.import_module("cv2")
    capture = cv2.VideoCapture(str(path))
    try:
        good, frame = capture.read()
        if not good:
            raise Unreadable("damaged, or no video")
        while good:
            yield np.ascontiguousarray(frame[..., ::-1])
            good, frame = capture.read()
    finally:
        capture.release()
