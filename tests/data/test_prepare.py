"""The stages prepare and partition on a made-up source: what they write, refuse and repeat."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_pack import png

from dualteacher import settings
from dualteacher.data import partition, sources
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.pack import Pack, Sample
from dualteacher.data.sources import Split
from dualteacher.stages import classes, download, prepare
from dualteacher.stages import partition as partition_stage
from dualteacher.system import files, paths
from dualteacher.system.errors import UserError
from dualteacher.workflow import presets

PLACE = paths.Dataset("bluemarble")


class MadeUp:
    """Thirty training and four validation images of three classes in blocks of three; source, archive and content."""

    def __init__(self) -> None:
        self.masks: dict[str, np.ndarray | None] = {}
        self.number = {"train": 30, "val": 4}

    def archives(self) -> list[MadeUp]:
        return [self]

    def fetch(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "archive.zip").write_bytes(b"archive")
        return folder / "archive.zip"

    def describe(self) -> dict[str, str]:
        return {"package": "made-up", "version": "1"}

    def open(self, paths: Sequence[Path]) -> MadeUp:
        assert paths[0].read_bytes() == b"archive"
        return self

    def classes(self) -> list[ClassInfo]:
        return [ClassInfo(name, (i * 80, 200 - i * 80, 90)) for i, name in enumerate(["sea", "land", "ice"])]

    def ids(self, split: Split) -> list[str]:
        return [f"{split}{i:02d}" for i in range(self.number[split])]

    def samples(self, split: Split) -> Iterator[Sample]:
        for i, image_id in enumerate(self.ids(split)):
            rng = np.random.default_rng([i, len(split)])  # no picture in both splits
            image = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            mask = rng.integers(0, 2, (24, 32), dtype=np.uint8)
            mask[:2] = 255
            if i % 10 == 0:
                mask[10:20] = 2
            chosen = self.masks.get(image_id, mask)
            yield Sample(image_id, png(image), None if chosen is None else png(chosen), 24, 32, f"b{i // 3}")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    made_up = MadeUp()
    monkeypatch.setattr(sources, "choose", lambda _: made_up)
    monkeypatch.chdir(tmp_path)
    return made_up


@pytest.fixture(scope="module")
def params() -> settings.Settings:
    return settings.parse(presets.load("bluemarble", Path(__file__).parents[2] / "presets"))


def run(params: settings.Settings) -> None:
    download.run(params, "bluemarble")
    prepare.run(params, "bluemarble")
    classes.run(params, "bluemarble")


def test_what_prepare_writes(source: MadeUp, params: settings.Settings) -> None:
    source.masks["train07"] = None
    run(params)
    train, val = Pack(PLACE.train), Pack(PLACE.val)
    assert (train.ids, val.ids) == (source.ids("train"), source.ids("val"))
    assert not train.has_mask(7)
    assert json.loads(PLACE.classes.read_text())[2] == {"index": 2, "name": "ice", "color": [160, 40, 90]}
    stats = pd.read_parquet(PLACE.stats)
    assert stats.groupby(["split", "image_id"]).pixels.sum().eq(24 * 32).all()
    assert len(stats.groupby(["split", "image_id"])) == 33  # no row for the image without a mask
    assert stats[stats.class_index == 255].pixels.eq(64).all()
    mask = train.mask(10)
    row = stats[(stats.image_id == "train10") & (stats.class_index == 2)]
    assert mask is not None and row.pixels.item() == (mask == 2).sum()
    with Image.open(PLACE.contact_sheet) as sheet:
        assert min(sheet.size) > 400


def test_the_same_archives_give_the_same_bytes(source: MadeUp, params: settings.Settings) -> None:
    outputs = [PLACE.manifest, PLACE.train, PLACE.val, PLACE.classes, PLACE.stats, PLACE.contact_sheet]
    run(params)
    first = [files.sha256(path) for path in outputs]
    for path in outputs:
        path.unlink()
    run(params)
    assert [files.sha256(path) for path in outputs] == first


def test_masks_that_do_not_fit_stop_everything(source: MadeUp, params: settings.Settings) -> None:
    raw = np.zeros((24, 32), np.uint8)
    raw[3, :5] = 3  # one too many: raw labels that nobody encoded
    raw[4, 0] = 150
    source.masks |= {"train03": raw, "val02": np.zeros((10, 10), np.uint8)}
    source.masks["train05"] = np.zeros((24, 32, 3), np.uint8)  # colours instead of indices
    with pytest.raises(UserError) as caught:
        run(params)
    message = str(caught.value)
    assert "3 errors in the data, nothing written" in message
    assert "train03: 6 pixels with values [3, 150], allowed 0…2, 255" in message
    assert "val02: the mask is 10×10, the image 24×32" in message
    assert "train05: the mask cannot be decoded" in message
    assert sorted(path.name for path in PLACE.folder.iterdir()) == ["raw"]


def test_an_empty_split_is_refused(source: MadeUp, params: settings.Settings) -> None:
    source.number["val"] = 0
    with pytest.raises(UserError, match="no val images"):
        run(params)
    assert not PLACE.train.exists()


def test_prepare_without_download(source: MadeUp, params: settings.Settings) -> None:
    with pytest.raises(UserError, match=r"manifest\.json: no such file; run the download stage"):
        prepare.run(params, "bluemarble")


def test_a_partition_says_where_it_comes_from(source: MadeUp, params: settings.Settings) -> None:
    source.masks["train00"] = None
    run(params)
    partition_stage.run(params, "bluemarble", "quarter", 3)
    split = paths.Partition("bluemarble", "quarter", 3)
    labelled, _, unlabelled = partition.read(split.table)
    told = json.loads(split.provenance.read_text())
    assert sorted(labelled + unlabelled) == source.ids("train")
    assert "train00" in unlabelled
    assert told["kind"] == "generated"
    assert (told["dataset"], told["partition"], told["seed"]) == ("bluemarble", "quarter", 3)
    assert (told["unit"], told["fraction"]) == ("block", 0.25)
    assert (told["labelled"], told["unlabelled"]) == (len(labelled), len(unlabelled))
    assert told["list_sha256"] == partition.list_hash(labelled)
    assert told["pack_sha256"] == files.sha256(PLACE.train)
    assert told["classes_missing"] == []
    pack = Pack(PLACE.train)
    masks = [pack.mask(pack.index(image_id)) for image_id in labelled]
    ice = sum(int((mask == 2).sum()) for mask in masks if mask is not None)
    assert told["labelled_pixels"][2] == ice > 0
    written = files.sha256(split.table), files.sha256(split.provenance)
    partition_stage.run(params, "bluemarble", "quarter", 3)
    assert (files.sha256(split.table), files.sha256(split.provenance)) == written


def test_classes_that_no_labelled_image_shows_are_named(source: MadeUp, params: settings.Settings) -> None:
    for i in (0, 10, 20):
        source.masks[f"train{i:02d}"] = np.zeros((24, 32), np.uint8)
    run(params)
    partition_stage.run(params, "bluemarble", "eighth", 0)
    told = json.loads(paths.Partition("bluemarble", "eighth", 0).provenance.read_text())
    assert told["classes_missing"] == [2]


def test_partition_without_prepare(source: MadeUp, params: settings.Settings) -> None:
    with pytest.raises(UserError, match=r"train\.arrow: no such file; run the prepare stage"):
        partition_stage.run(params, "bluemarble", "quarter", 0)
