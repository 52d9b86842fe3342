"""Image files of all kinds for the tests, and a folder of one's own made of them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from dualteacher import settings

ORIENTATION = 0x0112


def photo(i: int, height: int = 20, width: int = 31) -> np.ndarray:
    """Another picture for each number."""
    return np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)


def mask(i: int, height: int = 20, width: int = 31, classes: int = 3) -> np.ndarray:
    return np.random.default_rng([i, 7]).integers(0, classes, (height, width), dtype=np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str, orientation: int = 1, **options: Any) -> bytes:
    """`pixels` in a file of format `kind` that says how it has to be turned."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if orientation != 1:
        options["exif"] = Image.Exif()
        options["exif"][ORIENTATION] = orientation
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(values: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **options)
    return file.getvalue()


def png16(channels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, (H, W, 3) uint16, which Pillow reads but does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = channels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def put(path: Path, data: bytes | np.ndarray) -> Path:
    """Write a file; an array as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(data, "PNG") if isinstance(data, np.ndarray) else data)
    return path


def described(folder: Path, **changes: Any) -> settings.Folder:
    """Settings for a folder with images/ and masks/ of three classes; `changes` replace keys."""
    values: dict[str, Any] = {
        "source": "folder",
        "folder": str(folder),
        "images": "images",
        "masks": "masks",
        "mask_suffix": "",
        "unlabelled": None,
        "validation": {"share": 0.25, "images": None, "masks": None},
        "block": "image",
        "classes": [{"name": f"class {i}", "color": [i, i, i], "value": i} for i in range(3)],
        "ignore": [255],
        "on_error": "stop",
    }
    return settings.Folder.model_validate(values | changes)


def fill(folder: Path, labelled: int = 8, without: int = 3) -> Path:
    """images/ with masks/ for the first ones, of different sizes."""
    for i in range(labelled + without):
        size = (20 + i % 3, 31 - i % 2)
        put(folder / f"images/photo{i:02d}.png", photo(i, *size))
        if i < labelled:
            put(folder / f"masks/photo{i:02d}.png", mask(i, *size))
    return folder
