"""Blue Marble tiles: where they are cut, what their classes say, and that the splits never overlap."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from downloads import fetched

from dualteacher import settings
from dualteacher.data import partition
from dualteacher.data.fetch import manifest
from dualteacher.data.pack import Pack
from dualteacher.data.sources import bluemarble, map_tiles
from dualteacher.stages import download as download_stage
from dualteacher.stages import partition as partition_stage
from dualteacher.stages import prepare
from dualteacher.system import files, paths
from dualteacher.system.errors import UserError
from dualteacher.workflow import presets

PARAMS = settings.parse(presets.load("bluemarble", Path(__file__).parents[2] / "presets"))


def wanted(**changes: object) -> settings.BlueMarble:
    """Tiles of 16 in blocks of 32 between 85° and 55° N: rows 75 to 525 of a map of 600 × 1200."""
    values = {"source": "bluemarble", "tile": 16, "block": 32, "label_by": "block", "minimum_land": 0.2}
    places = {"north": 85, "south": 55, "validation": 0.25, "limit": None}
    return settings.BlueMarble.model_validate(values | places | changes)


def tiles(**changes: object) -> map_tiles.MapTiles:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 10, (12, 24), dtype=np.uint8) * (rng.random((12, 24)) < 0.6)
    labels = coarse.astype(np.uint8).repeat(50, 0).repeat(50, 1)
    image = np.repeat(labels[..., None] * 20, 3, 2).astype(np.uint8)
    return map_tiles.MapTiles(wanted(**changes), bluemarble.TABLE, image, labels)


def test_grids_meet_at_pixel_centres() -> None:
    grid = np.arange(12).reshape(1, 12)
    assert map_tiles.nearest(grid, (1, 5)).tolist() == [[1, 3, 6, 8, 10]]  # 2.4 to 1, as zones to image
    assert map_tiles.nearest(grid[:, :8], (1, 5)).tolist() == [[0, 2, 4, 5, 7]]  # 1.6 to 1, as land to image
    assert map_tiles.nearest(grid, (1, 12)).tolist() == grid.tolist()
    assert map_tiles.nearest(grid[:, :2], (2, 4)).tolist() == [[0, 0, 1, 1]] * 2


def test_labels_follow_land_mask_and_zones() -> None:
    surface = np.array([[0, 1, 2], [1, 1, 1]], np.uint8)  # ocean, land, lake
    zones = np.array([[1, 1, 1], [32, 8, 31]], np.uint8)
    assert bluemarble.label(surface, zones, (2, 3)).tolist() == [[0, 1, 0], [255, 3, 8]]


def test_every_zone_has_one_class() -> None:
    zones = [zone for _, _, members in bluemarble.TABLE for zone in members]
    assert sorted(zones) == list(range(1, 32))
    assert len({color for _, color, _ in bluemarble.TABLE}) == len(bluemarble.TABLE) == 10


def test_tiles_labelled_one_by_one_do_not_overlap_and_validation_is_the_same() -> None:
    by_block, by_tile = tiles(), tiles(label_by="tile")
    assert by_tile.ids("val") == by_block.ids("val")
    assert set(by_tile.ids("train")) < set(by_block.ids("train"))
    samples = list(by_tile.samples("train"))
    assert [sample.block for sample in samples] == by_tile.ids("train")
    corners = [(tile.top, tile.left) for tile in by_tile._splits["train"]]
    assert all(y % 16 == 0 and x % 16 == 0 for y, x in corners) and len(set(corners)) == len(samples)


def test_no_pixel_is_in_two_splits_or_blocks() -> None:
    made = tiles()
    covered = {split: np.zeros(made.labels.shape, int) for split in ("train", "val")}
    blocks: dict[str, set] = {"train": set(), "val": set()}
    for split, counts in covered.items():
        for tile in made._splits[split]:  # type: ignore[index]
            assert tile.top // 32 == (tile.top + 15) // 32 == tile.block[0]
            assert tile.left // 32 == (tile.left + 15) // 32 == tile.block[1]
            assert 75 <= tile.top <= 525 - 16
            counts[tile.top : tile.top + 16, tile.left : tile.left + 16] += 1
            blocks[split].add(tile.block)
            square = made.labels[tile.top : tile.top + 16, tile.left : tile.left + 16]
            assert (square != 0).mean() >= 0.2
    assert not (covered["train"].astype(bool) & covered["val"].astype(bool)).any()
    assert not blocks["train"] & blocks["val"]
    assert covered["val"].max() == 1  # each pixel is scored once
    assert covered["train"].max() == 4
    share = len(blocks["val"]) / len(blocks["train"] | blocks["val"])
    assert abs(share - 0.25) < 0.02


def test_samples_are_the_tiles_the_ids_name() -> None:
    made = tiles()
    for split in ("train", "val"):
        samples = list(made.samples(split))
        assert [sample.image_id for sample in samples] == made.ids(split)
        assert len(set(made.ids(split))) == len(samples) > 20
        for sample in samples[::10]:
            row, column = (int(part[1:]) * 8 for part in sample.image_id.split("_"))
            assert sample.mask is not None
            mask = map_tiles.decode(sample.mask)
            assert np.array_equal(mask, made.labels[row : row + 16, column : column + 16])
            assert np.array_equal(map_tiles.decode(sample.image)[..., 0], mask * 20)
            assert sample.block == f"r{row // 32:02d}_c{column // 32:03d}"


def test_the_validation_set_holds_the_classes_in_their_shares() -> None:
    made = tiles()
    squares = {
        split: np.concatenate([made._square(made.labels, t.top, t.left).ravel() for t in made._splits[split]])
        for split in ("train", "val")
    }
    shares = {split: np.bincount(square, minlength=10) / square.size for split, square in squares.items()}
    assert (shares["val"] > 0.3 * shares["train"]).all()


def test_a_limit_takes_tiles_from_everywhere() -> None:
    all_ids, few = tiles().ids("train"), tiles(limit=20).ids("train")
    assert len(few) == 20 and set(few) <= set(all_ids) and few == tiles(limit=20).ids("train")
    places = [all_ids.index(image_id) for image_id in few]
    assert max(np.diff(places)) <= len(all_ids) / 20 + 1
    assert tiles(limit=10**6).ids("train") == all_ids


def test_too_narrow_a_zone_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"fewer than two blocks .* widen them in params\.yaml"):
        tiles(north=85, south=84).ids("train")


@pytest.mark.slow
def test_the_real_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads both packages, then works without a network."""
    monkeypatch.chdir(tmp_path)
    fetched(PARAMS, "bluemarble")

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("pip was called")

    monkeypatch.setattr(subprocess, "run", no_network)
    download_stage.run(PARAMS, "bluemarble")
    prepare.run(PARAMS, "bluemarble")
    place = paths.Dataset("bluemarble")
    train, val = Pack(place.train), Pack(place.val)
    assert (len(train), len(val)) == (734, 129)
    assert not set(train.blocks) & set(val.blocks)
    before = files.sha256(place.train), files.sha256(place.val), files.sha256(place.stats)
    prepare.run(PARAMS, "bluemarble")
    assert (files.sha256(place.train), files.sha256(place.val), files.sha256(place.stats)) == before
    for seed in (0, 1):
        for name in ("eighth", "quarter"):
            partition_stage.run(PARAMS, "bluemarble", name, seed)
        splits = {name: paths.Partition("bluemarble", name, seed) for name in ("eighth", "quarter")}
        labelled = {name: set(partition.read(split.table)[0]) for name, split in splits.items()}
        assert labelled["eighth"] < labelled["quarter"]
        assert abs(len(labelled["eighth"]) - len(train) / 8) < 5
        assert json.loads(splits["eighth"].provenance.read_text())["classes_missing"] == []
    archives = [map_tiles.BASEMAP, bluemarble.CLIMATE]
    geography(bluemarble.BlueMarble(wanted()).open(manifest.read(place.manifest, archives)))


def geography(world: map_tiles.MapTiles) -> None:
    """Places have the class that an atlas gives them, and the image's coasts lie on the mask's."""
    names = [name for name, _, _ in bluemarble.TABLE]
    for latitude, longitude, name in [
        (25, 5, "desert"),  # Sahara
        (-24, 128, "desert"),  # Australia
        (-3, -62, "tropical forest"),  # Amazon
        (-1, 22, "tropical forest"),  # Congo
        (7, 22, "savanna"),  # Central Africa
        (-12, -50, "savanna"),  # Cerrado
        (48.5, 2, "temperate"),  # France
        (42, -93, "continental"),  # Iowa
        (62, 100, "boreal"),  # Siberia
        (47, 68, "steppe"),  # Kazakhstan
        (70, -110, "tundra"),  # Victoria Island
        (72, -40, "ice"),  # Greenland
        (47.6, -87.5, "water"),  # Lake Superior
        (0, -150, "water"),  # Pacific
    ]:
        row, column = round((90 - latitude) * 15), round((longitude + 180) * 15)
        around = world.labels[row - 3 : row + 4, column - 3 : column + 4]
        assert names[np.bincount(around.ravel()).argmax()] == name, (latitude, longitude)
    zone = np.s_[180:2250]
    red, blue = world.image[zone, :, 0].astype(int), world.image[zone, :, 2].astype(int)
    looks_wet = (blue - red > 8) & (world.image[zone].sum(-1) < 200)
    water = world.labels[zone] == 0
    agreement = {
        (dy, dx): (np.roll(looks_wet, (dy, dx), (0, 1)) == water).mean() for dy in (-2, 0, 2) for dx in (-2, 0, 2)
    }
    assert max(agreement, key=lambda shift: agreement[shift]) == (0, 0)
