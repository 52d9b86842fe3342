"""Lists of a split, as Pascal VOC and others write them, decide what is validated on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pictures import mask, photo, put

from dualteacher import settings
from dualteacher.commands import init, init_params
from dualteacher.data.formats import split_lists
from dualteacher.data.sources.folder import Folder
from dualteacher.system.errors import UserError

TRAIN, VAL, TEST = (f"ImageSets/Segmentation/{split}.txt" for split in ("train", "val", "test"))


def voc(folder: Path, **lists: str) -> None:
    """Ten images, masks for all but the last."""
    for i in range(10):
        put(folder / f"JPEGImages/2007_{i:03d}.png", photo(i))
        if i < 9:
            put(folder / f"SegmentationClass/2007_{i:03d}.png", mask(i))
    for name, numbers in lists.items():
        text = "".join(f"2007_{int(number):03d}\r\n" for number in numbers)
        put(folder / f"ImageSets/Segmentation/{name}.txt", text.encode())
    put(folder / "ImageSets/Main/val.txt", b"2007_001\n")  # of the detection task


def own(folder: Path) -> settings.Folder:
    return init.valid(folder, init.describe(folder)[0])


def stems(entries: list[object]) -> str:
    return "".join(entry.image_id[-1] for entry in entries)  # type: ignore[attr-defined]


def test_init_takes_the_lists_of_voc(tmp_path: Path) -> None:
    voc(tmp_path, train="012", val="678", test="5", trainval="012678")
    chosen, told = init.describe(tmp_path)
    assert chosen["validation"] == {"share": None, "images": None, "masks": None, "list": VAL, "test": TEST}
    assert f"validation: 3 images ({VAL})" in told and f"{TEST}: its images are left out" in told
    assert f"{TRAIN}: 2 further images with masks are used for training too" in told
    looked = Folder(own(tmp_path)).look()
    assert (stems(looked.layout.train), stems(looked.layout.val)) == ("012349", "678")
    assert not any("lists of a split" in line for line in looked.unused())


def test_params_yaml_keeps_the_lists(tmp_path: Path) -> None:
    voc(tmp_path, val="67")
    text = init_params._dataset("s", own(tmp_path))
    assert f"validation: {{share: null, images: null, masks: null, list: {VAL}}}" in text


def test_without_a_list_for_validation_a_share_is_held_out(tmp_path: Path) -> None:
    voc(tmp_path, default="012345678")  # as CVAT exports one subset
    chosen, told = init.describe(tmp_path)
    assert chosen["validation"] == {"share": 0.2, "images": None, "masks": None}
    assert any(line.startswith("not used: lists of a split: 2") for line in told)


def test_the_download_stage_follows_the_list(tmp_path: Path) -> None:
    voc(tmp_path, val="78")
    folder = Folder(own(tmp_path))
    listing = folder.archives()[0].fetch(tmp_path)
    assert VAL in json.loads(listing.read_text())
    assert stems(folder.open([listing]).layout.val) == "78"
    put(tmp_path / VAL, b"2007_001\n2007_077\n")
    with pytest.raises(UserError, match=r"val\.txt: changed since the download stage"):
        folder.open([listing])
    content = folder.open([folder.archives()[0].fetch(tmp_path)])
    assert stems(content.layout.val) == "1"
    (finding,) = [finding for finding in content.findings() if finding.kind == "list"]
    assert finding.where == VAL and "names 1 images that are not there" in finding.text and "2007_077" in finding.text
    put(tmp_path / VAL, b"2007_077\n")
    with pytest.raises(UserError, match="names no image with a mask"):
        folder.look()


@pytest.mark.parametrize(
    "line",
    ["sub a/x.jpg", "./images/sub a/x.jpg", "/home/me/data/sub a/x.png", "images\\sub a\\x", "x2.jpg masks/x2.png"],
)
def test_names_are_found_however_they_are_written(tmp_path: Path, line: str) -> None:
    images = ["images/sub a/x.jpg", "images/sub b/x.jpg", "images/x2.jpg"]
    put(tmp_path / "val.txt", f"\ufeff{line}\n\nx\n".encode())
    named, unknown = split_lists.resolve(tmp_path / "val.txt", images)
    assert named == {images[2] if "x2" in line else images[0]} and unknown == ["x"]  # two are called x
