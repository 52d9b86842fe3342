"""Weak augmentation of one training image in a loader worker: scale, crop, flip, turn, colour factors.

Scaling and cropping are a single resampling: the crop is chosen in scaled coordinates, mapped back to the original,
and resized by PIL's `resize(box=…)`. The worker only draws the colour factors; core/views.py applies them to the whole
batch on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dualteacher.core import views
from dualteacher.core.labels import IGNORE
from dualteacher.settings import Augment

SHOWN = 0.01  # minimum share of a crop for a wanted class
TRIES = 10  # crops to try for `class_share` or a wanted class


@dataclass(frozen=True)
class Crop:
    """A square crop of the scaled image; all values in its pixels."""

    top: int
    left: int
    height: int  # of the scaled image
    width: int
    side: int

    @property
    def rows(self) -> int:
        """Rows of the crop inside the image; the rest is padding."""
        return min(self.side, self.height)

    @property
    def columns(self) -> int:
        return min(self.side, self.width)

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """(left, upper, right, lower) of the part inside the image, in the original of `size` (H, W)."""
        y, x = size[0] / self.height, size[1] / self.width
        return self.left * x, self.top * y, (self.left + self.columns) * x, (self.top + self.rows) * y


def scaled_size(size: tuple[int, int], resize: list[int] | None, factor: float) -> tuple[int, int]:
    """Size (H, W) after scaling by `factor`, keeping the aspect ratio.

    With `resize` = [long, short], the image is fitted into long × short, both times `factor` (the usual "ratio range"
    of segmentation pipelines). Without, `factor` applies to the original size.
    """
    if resize is not None:
        long, short = max(resize) * factor, min(resize) * factor
        factor = min(long / max(size), short / min(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def draw_crop(rng: np.random.Generator, size: tuple[int, int], augment: Augment, side: int) -> Crop:
    """A crop of random scale and position for an image of `size` (H, W)."""
    height, width = scaled_size(size, augment.resize, rng.uniform(augment.scale[0], augment.scale[1]))
    top = int(rng.integers(0, max(0, height - side) + 1))
    left = int(rng.integers(0, max(0, width - side) + 1))
    return Crop(top, left, height, width, side)


def move(rng: np.random.Generator, crop: Crop) -> Crop:
    """A crop of the same scale at a new random position."""
    top = int(rng.integers(0, max(0, crop.height - crop.side) + 1))
    left = int(rng.integers(0, max(0, crop.width - crop.side) + 1))
    return Crop(top, left, crop.height, crop.width, crop.side)


def cut_image(image: np.ndarray, crop: Crop, pad: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """Bilinear (antialiased) crop of levels (H, W, C) → (side, side, C) of their type, padded with `pad` (C,).

    size: (H, W) of the original, if the image was decoded at 1/2, 1/4 or 1/8 of it (rounded up).
    """
    height, width = image.shape[:2] if size is None else size
    reduction = round(height / image.shape[0])
    out = np.empty((crop.side, crop.side, image.shape[2]), image.dtype)
    out[:] = pad
    left, upper, right, lower = (edge / reduction for edge in crop.box((height, width)))
    inside = out[: crop.rows, : crop.columns]

    def resized(part: np.ndarray) -> Image.Image:
        return Image.fromarray(part).resize(
            (crop.columns, crop.rows), Image.Resampling.BILINEAR, box=(left, upper, right, lower)
        )

    if image.shape[2] == 3 and image.dtype == np.uint8:
        inside[:] = np.asarray(resized(image))
    else:  # Pillow has no pictures of any number of channels, or of several floats
        for channel in range(image.shape[2]):
            inside[..., channel] = np.asarray(resized(np.ascontiguousarray(image[..., channel])))
    return out


def cut_mask(mask: np.ndarray, crop: Crop) -> np.ndarray:
    """Nearest-neighbour crop of a uint8 (H, W) mask, padded with 255."""
    out = np.full((crop.side, crop.side), IGNORE, np.uint8)
    part = Image.fromarray(mask).resize(
        (crop.columns, crop.rows), Image.Resampling.NEAREST, box=crop.box(mask.shape[:2])
    )
    out[: crop.rows, : crop.columns] = np.asarray(part)
    return out


def one_class_fills(mask: np.ndarray, share: float) -> bool:
    """Whether one class covers more than `share` of the crop's valid pixels."""
    counts = np.bincount(mask.ravel(), minlength=256)[:IGNORE]
    total = counts.sum()
    return total > 0 and counts.max() > share * total


@dataclass(frozen=True)
class Example:
    """One weakly augmented image; its colour factors are not applied yet."""

    image: np.ndarray  # (side, side, C) levels, uint8 or float32
    mask: np.ndarray  # (side, side) uint8; for unlabelled images 0 inside the image, 255 in the padding
    factors: np.ndarray  # (4,) float32, see views.COLUMNS


def weak(
    size: tuple[int, int],
    read: Callable[[tuple[int, int]], np.ndarray],
    mask: np.ndarray | None,
    augment: Augment,
    side: int,
    pad: np.ndarray,
    rng: np.random.Generator,
    wanted: int | None = None,
) -> Example:
    """Scale, crop, flip and turn; draw colour factors.

    size: (H, W) of the image. read: read(least) decodes it, levels (h, w, C), possibly at a reduced size not below
    `least` (H, W). mask: (H, W) uint8, or None. wanted: a class that should cover SHOWN of the crop; after TRIES
    attempts, the last crop is used.
    """
    crop = draw_crop(rng, size, augment, side)
    if mask is None:
        cut = np.full((side, side), IGNORE, np.uint8)
        cut[: crop.rows, : crop.columns] = 0
    else:
        cut = cut_mask(mask, crop)
        for _ in range(TRIES if augment.class_share < 1 else 0):
            if not one_class_fills(cut, augment.class_share):
                break
            crop = move(rng, crop)
            cut = cut_mask(mask, crop)
        for _ in range(TRIES if wanted is not None else 0):
            if np.mean(cut == wanted) >= SHOWN:
                break
            crop = move(rng, crop)
            cut = cut_mask(mask, crop)
    pixels = cut_image(read((crop.height, crop.width)), crop, pad, size)
    if rng.random() < augment.flip:
        pixels, cut = pixels[:, ::-1], cut[:, ::-1]
    if augment.turns:
        quarters = int(rng.integers(4))
        pixels, cut = np.rot90(pixels, quarters), np.rot90(cut, quarters)
    factors = views.draw_photometric(rng) if augment.photometric else [1.0, 1.0, 1.0, 0.0]
    return Example(np.ascontiguousarray(pixels), np.ascontiguousarray(cut), np.array(factors, np.float32))
