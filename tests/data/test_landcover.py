"""Land cover: the merged classes, and that they lie where the picture shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from downloads import fetched

from dualteacher import settings
from dualteacher.data.fetch import manifest
from dualteacher.data.sources import landcover, map_tiles
from dualteacher.system import paths
from dualteacher.system.errors import UserError
from dualteacher.workflow import presets

PARAMS = settings.parse(presets.load("landcover", Path(__file__).parents[2] / "presets"))
NAMES = [name for name, _, _ in landcover.TABLE]


def content(image: np.ndarray, labels: np.ndarray, **changes: object) -> map_tiles.MapTiles:
    wanted = PARAMS.datasets["landcover"].model_dump() | changes
    return map_tiles.MapTiles(settings.LandCover.model_validate(wanted), landcover.TABLE, image, labels)


def test_every_igbp_class_has_one_class_but_wetlands_and_towns() -> None:
    merged = [value for _, _, members in landcover.TABLE for value in members]
    assert sorted(merged) == sorted(set(range(17)) - {11, 13})
    assert len({color for _, color, _ in landcover.TABLE}) == len(landcover.TABLE) == 6


def test_labels_need_both_maps_to_agree_on_land() -> None:
    surface = np.array([[0, 1, 2], [1, 1, 0], [1, 1, 1]], np.uint8)  # ocean, land, lake
    cover = np.array([[0, 8, 0], [0, 11, 10], [14, 16, 15]], np.uint8)
    expected = [[0, 1, 0], [255, 255, 255], [3, 4, 5]]
    assert landcover.label(surface, cover, (3, 3)).tolist() == expected


def test_the_validation_set_holds_the_rare_classes() -> None:
    """Crop, barren land and snow lie in four blocks each of 555, of which a quarter is drawn."""
    labels = np.full((600, 1200), 2, np.uint8)
    labels[::2, ::3] = 0
    rare = {3: [(3, 5), (7, 18), (12, 33), (15, 1)], 4: [(4, 4), (8, 35), (11, 0), (16, 22)]}
    rare[5] = [(3, 2), (6, 30), (9, 11), (14, 20)]
    for index, blocks in rare.items():
        for row, column in blocks:
            labels[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32] = index
    made = content(np.zeros((600, 1200, 3), np.uint8), labels, tile=16, block=32, north=85, south=51)
    held_out = {tile.block for tile in made._splits["val"]}
    assert {index: len(held_out & set(blocks)) for index, blocks in rare.items()} == {3: 1, 4: 1, 5: 1}


def test_too_narrow_a_zone_names_the_source() -> None:
    labels = np.ones((600, 1200), np.uint8)
    with pytest.raises(UserError, match=r"^landcover: north, south, block"):
        content(np.zeros((600, 1200, 3), np.uint8), labels, north=85, south=84).ids("train")


@pytest.mark.slow
def test_the_real_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads both packages; places have the class that an atlas gives them, and the picture shows it."""
    monkeypatch.chdir(tmp_path)
    fetched(PARAMS, "landcover")
    options = PARAMS.datasets["landcover"]
    assert isinstance(options, settings.LandCover)
    source = landcover.LandCover(options)
    world = source.open(manifest.read(paths.Dataset("landcover").manifest, source.archives()))
    for latitude, longitude, name in [
        (25, 5, "barren"),  # Sahara
        (-3, -62, "forest"),  # Amazon
        (-1, 22, "forest"),  # Congo
        (-24, 128, "open vegetation"),  # Australia
        (47, 68, "open vegetation"),  # Kazakhstan
        (42, -93, "crop"),  # Iowa
        (23, 77, "crop"),  # India
        (-75, 120, "snow and ice"),  # Antarctica
        (47.6, -87.5, "water"),  # Lake Superior
        (0, -150, "water"),  # Pacific
    ]:
        row, column = round((90 - latitude) * 15), round((longitude + 180) * 15)
        around = world.labels[row - 3 : row + 4, column - 3 : column + 4]
        assert NAMES[np.bincount(around.ravel()).argmax()] == name, (latitude, longitude)
    assert (len(world.ids("train")), len(world.ids("val"))) == (577, 190)
    for tiles in world._splits.values():
        labels = np.stack([world._square(world.labels, tile.top, tile.left) for tile in tiles])
        white = np.stack([world._square(world.image, tile.top, tile.left) for tile in tiles]).min(-1) > 170
        known = labels != 255
        assert known.mean() > 0.95
        assert (np.bincount(labels[known], minlength=6) / known.sum()).min() > 0.05
        assert white[labels == 5].mean() > 0.95
        assert white[known & (labels != 5)].mean() < 0.01
