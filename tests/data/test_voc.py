"""PASCAL VOC in both protocols: which masks there are, where they come from, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import (
    COARSE,
    FINE,
    VAL,
    as_folder,
    as_tar,
    jpeg,
    known_lists,
    published,
    sbd_members,
    small_voc,
    stripes,
    voc_members,
)  # fmt: skip
from web import Site, serving

from dualteacher import settings
from dualteacher.data import official_lists, partition
from dualteacher.data.pack import Pack
from dualteacher.data.sources import published as common
from dualteacher.data.sources import voc
from dualteacher.stages import download, prepare
from dualteacher.stages import partition as partition_stage
from dualteacher.system import paths
from dualteacher.system.errors import UserError
from dualteacher.workflow import presets

PLACE = paths.Dataset("voc")
PRESETS = Path(__file__).parents[2] / "presets"


def listed(ids: list[str], end: str = "\n") -> str:
    return "\n".join(f"JPEGImages/{i}.jpg SegmentationClass/{i}.png" for i in ids) + end


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Both archives and the lists, served; a working folder that is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    small_voc(monkeypatch)
    with serving(Site()) as made:
        for name, constant, members in (("voc.tar", "ARCHIVE", voc_members()), ("sbd.tgz", "SBD", sbd_members())):
            data = as_tar(tmp_path / name, members).read_bytes()
            (tmp_path / name).unlink()
            monkeypatch.setattr(voc, constant, published(made.put(f"/{name}", data), name, data, "md5"))
        monkeypatch.setattr(common, "RAW_ADDRESSES", (f"{made.address}/{{path}}",))
        texts = {
            "classic_1": (listed(FINE[:1], end=""), listed(FINE[1:] + COARSE)),
            "unimatch_1_2": (listed(COARSE[:2]), listed(FINE + COARSE[2:])),
        }
        splits = {"train": listed([*COARSE, *FINE]), "val": listed(VAL)}
        for path, text in known_lists(monkeypatch, "voc", texts, splits).items():
            made.put(f"/{path}", text.encode())
        yield made


def params(protocol: str = "classic", **dataset: Any) -> settings.Settings:
    raw = presets.load("tiny", PRESETS)
    wanted = {"source": "voc", "protocol": protocol, "archive": None, "sbd": None, "lists": True} | dataset
    raw["datasets"] = {"voc": wanted}
    raw["partition"] = {
        n: {"fraction": None, "count": None, "list": n, "held_out": None} for n in ("classic_1", "unimatch_1_2")
    }
    raw["grid"] |= {"dataset": ["voc"], "partition": list(raw["partition"])}
    return settings.parse(raw)


def run(loaded: settings.Settings) -> tuple[Pack, Pack]:
    download.run(loaded, "voc")
    prepare.run(loaded, "voc")
    return Pack(PLACE.train), Pack(PLACE.val)


def test_classic_knows_the_fine_masks_alone_and_needs_no_others(site: Site) -> None:
    train, val = run(params())
    assert train.ids == sorted([*FINE, *COARSE]) and val.ids == VAL
    assert [train.ids[i] for i in range(len(train)) if train.has_mask(i)] == FINE
    mask = train.mask(train.index(FINE[1]))
    assert mask is not None
    assert (mask == stripes([0, 2, 255])).all()  # the palette's index, not its colour
    assert "/sbd.tgz" not in [path for path, _, _ in site.requests]
    assert voc.VOC(params().datasets["voc"]).classes()[15] == ("person", (192, 128, 128))

    partition_stage.run(params(), "voc", "classic_1", 0)
    assert partition.read(paths.Partition("voc", "classic_1", 0).table)[0] == FINE[:1]


def test_blended_takes_sbds_masks_where_voc_has_none(site: Site) -> None:
    train, _ = run(params("blended"))
    assert all(train.has_mask(i) for i in range(len(train)))
    for image_id, values in ((COARSE[1], [0, 11]), (FINE[0], [0, 1, 255])):  # VOC's own win
        mask = train.mask(train.index(image_id))
        assert mask is not None
        assert (mask == stripes(values)).all()
    partition_stage.run(params("blended"), "voc", "unimatch_1_2", 0)
    assert partition.read(paths.Partition("voc", "unimatch_1_2", 0).table)[0] == COARSE[:2]


def test_a_blended_list_on_the_classic_masks_says_what_to_change(site: Site) -> None:
    run(params())
    with pytest.raises(UserError, match=r"2 labelled images have no mask in .*\(2008_000003.*protocol: blended"):
        partition_stage.run(params(), "voc", "unimatch_1_2", 0)


def test_folders_of_the_user_serve_as_well(site: Site, tmp_path: Path) -> None:
    kit, sbd = as_folder(tmp_path / "VOCdevkit_folder", voc_members()), as_folder(tmp_path / "s", sbd_members())
    other_year = kit / "VOCdevkit/VOC2007/ImageSets/Segmentation/train.txt"
    other_year.parent.mkdir(parents=True)
    other_year.write_text("000001\n")
    (kit / "VOCdevkit/VOC2012/JPEGImages/2099_000001.jpg").write_bytes(jpeg(99))  # not asked for
    train, val = run(params("blended", archive=str(kit), sbd=str(sbd)))
    assert len(train) == 5 and len(val) == 1
    assert {path for path, _, _ in site.requests} == {f"/{p}" for p in ("train.txt", "classic_1/labelled.txt",
        "classic_1/unlabelled.txt", "unimatch_1_2/labelled.txt", "unimatch_1_2/unlabelled.txt")}  # fmt: skip


@pytest.mark.parametrize(
    ("gone", "complaint"),
    [
        ("JPEGImages/2009_000005.jpg", "1 of 6 images of JPEGImages missing: 2009_000005"),
        ("SegmentationClass/2007_000002.png", "1 of 3 masks of SegmentationClass missing: 2007_000002"),
        ("Segmentation/val.txt", "contains no ImageSets/Segmentation/val.txt"),
    ],
)
def test_what_is_missing_is_named(site: Site, tmp_path: Path, gone: str, complaint: str) -> None:
    members = {name: data for name, data in voc_members().items() if not name.endswith(gone)}
    loaded = params(archive=str(as_folder(tmp_path / "kit", members)), lists=True)
    with pytest.raises(UserError, match=complaint):
        run(loaded)


def test_a_missing_or_damaged_sbd_mask_is_named(site: Site, tmp_path: Path) -> None:
    name = f"benchmark_RELEASE/dataset/cls/{COARSE[0]}.mat"
    members = sbd_members()
    data = members.pop(name)
    folder = as_folder(tmp_path / "s", members)
    with pytest.raises(UserError, match="1 of 3 masks of cls missing: 2008_000003"):
        run(params("blended", sbd=str(folder)))
    for content in (b"no mat", data[:-50], data[:200]):
        (folder / name).write_bytes(content)
        with pytest.raises(UserError, match=r"2008_000003\.mat: not one of SBD's"):
            run(params("blended", sbd=str(folder)))


def test_too_few_images_in_a_list_are_counted(site: Site, tmp_path: Path) -> None:
    members = voc_members()
    members["VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"] = FINE[0].encode()
    with pytest.raises(UserError, match=r"1 images in ImageSets/Segmentation/train\.txt, expected 2"):
        run(params(archive=str(as_folder(tmp_path / "kit", members))))


def test_the_class_tables_and_lists_of_the_real_thing() -> None:
    assert len(set(voc.NAMES.split(", "))) == 21
    assert np.array_equal(voc.ENCODING, np.arange(256))
    for name in official_lists.names("voc"):
        official = official_lists.official("voc", name)
        assert official.labelled.lines + official.unlabelled.lines == voc.AUGMENTED
    assert official_lists.images("voc", "train").lines == 10582 and official_lists.images("voc", "val").lines == 1449
