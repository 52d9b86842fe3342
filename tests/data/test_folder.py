"""Your own folder: which file is what, how masks are read, and what is refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pictures import described, encoded, fill, mask, photo, put
from PIL import Image
from pydantic import ValidationError

from dualteacher.data import inspection, pack
from dualteacher.data.fetch.manifest import read, write
from dualteacher.data.formats import images
from dualteacher.data.formats.folder_layout import arrange, scan
from dualteacher.data.sources import choose
from dualteacher.data.sources.folder import Folder, FolderContent
from dualteacher.system.errors import UserError


def opened(folder: Path, **changes) -> FolderContent:
    return Folder(described(folder, **changes)).look()


def loaded(folder: Path, **changes) -> dict[str, inspection.Checked]:
    """Every image after its check, by its path."""
    photos = opened(folder, **changes)
    return {item.image: photos.load(item) for split in ("train", "val") for item in photos.entries(split)}


def complaint(checked: inspection.Checked) -> str:
    (error,) = [finding for finding in checked.findings if finding.level == "error"]
    return str(error)


def test_images_with_and_without_masks(tmp_path: Path) -> None:
    photos = opened(fill(tmp_path))
    assert len(photos.ids("val")) == 2, "a quarter of the eight with masks"
    assert sorted(photos.ids("train") + photos.ids("val")) == [f"images/photo{i:02d}" for i in range(11)]
    for split in ("train", "val"):
        for image_id, sample in zip(photos.ids(split), photos.samples(split), strict=True):
            number = int(image_id[-2:])
            size = (20 + number % 3, 31 - number % 2)
            assert (sample.image_id, sample.height, sample.width) == (image_id, *size)
            np.testing.assert_array_equal(pack.decode_image(sample.image), photo(number, *size))
            assert (sample.mask is None) == (number >= 8)
            if sample.mask is not None:
                np.testing.assert_array_equal(pack.decode_mask(sample.mask), mask(number, *size))


def test_the_validation_set_hardly_changes_when_images_come_in(tmp_path: Path) -> None:
    before = set(opened(fill(tmp_path, labelled=40)).ids("val"))
    assert set(opened(tmp_path).ids("val")) == before
    put(tmp_path / "images/new.png", photo(99))
    put(tmp_path / "masks/new.png", mask(99))
    assert len(before - set(opened(tmp_path).ids("val"))) <= 1


def test_folders_of_their_own_for_validation_and_unlabelled_images(tmp_path: Path) -> None:
    fill(tmp_path, labelled=1, without=0)
    for i in (50, 51):
        put(tmp_path / f"more/day {i}/p.jpg", encoded(photo(i), "JPEG"))
        put(tmp_path / f"held/images/{i}.png", photo(i))
    put(tmp_path / "held/masks/50.png", mask(50))
    own = {"share": None, "images": "held/images", "masks": "held/masks"}
    photos = opened(tmp_path, unlabelled="more", validation=own)
    assert photos.ids("train") == ["images/photo00", "more/day 50/p", "more/day 51/p"], "one labelled image will do"
    assert [item.mask for item in photos.entries("val")] == ["held/masks/50.png", None]


def test_sub_folders_suffixes_and_masks_beside_their_images(tmp_path: Path) -> None:
    for i, place in enumerate(("a", "a/deep", "b")):
        put(tmp_path / f"{place}/x.jpg", encoded(photo(i), "JPEG"))
        put(tmp_path / f"{place}/x_mask.png", mask(i))
    photos = opened(tmp_path, images=".", masks=".", mask_suffix="_mask", block="folder")
    items = {item.image: item for split in ("train", "val") for item in photos.entries(split)}
    assert {name: item.mask for name, item in items.items()} == {
        f"{place}/x.jpg": f"{place}/x_mask.png" for place in ("a", "a/deep", "b")
    }
    assert {item.block for item in items.values()} == {"a", "a/deep", "b"}


def test_whole_sub_folders_are_held_back(tmp_path: Path) -> None:
    for scene in range(4):
        for i in range(3):
            put(tmp_path / f"images/s{scene}/{i}.png", photo(scene * 3 + i))
            if i:
                put(tmp_path / f"masks/s{scene}/{i}.png", mask(i))
    photos = opened(tmp_path, block="folder")
    held_back = {item.block for item in photos.entries("val")}
    assert len(held_back) == 1 and len(photos.ids("val")) == 3
    assert held_back.isdisjoint({item.block for item in photos.entries("train")})


def test_masks_by_palette_colour_16_bits_and_other_values(tmp_path: Path) -> None:
    values = mask(1)
    colors = np.array([[10, 0, 0], [0, 20, 0], [0, 0, 30]], np.uint8)
    classes = [{"name": str(i), "color": [0, 0, 0], "value": color} for i, color in enumerate(colors.tolist())]
    by_color = {"classes": classes[:2], "ignore": [classes[2]["value"]]}
    spread = {
        "classes": [{"name": str(i), "color": [0, 0, 0], "value": v} for i, v in enumerate((0, 1000))],
        "ignore": [2000],
    }
    paletted = Image.fromarray(values)
    paletted.putpalette(colors.tobytes())
    ignored = np.where(values == 2, 255, values)
    for name, data, changes, expected in [
        ("palette", encoded(paletted, "PNG"), {}, values),
        ("palette as colours", encoded(paletted, "PNG"), by_color, ignored),
        ("colours", encoded(colors[values], "PNG"), by_color, ignored),
        ("16 bits", encoded(values.astype(np.uint16) * 1000, "PNG"), spread, ignored),
        ("tiff", encoded(values, "TIFF"), {}, values),
        ("webp", encoded(colors[values], "WEBP", lossless=True), by_color, ignored),
    ]:
        folder = fill(tmp_path / name, labelled=0)
        for i in (1, 2):
            put(folder / f"images/photo{i:02d}.png", photo(i))
            put(folder / f"masks/photo{i:02d}.png", data)
        checked = loaded(folder, **changes)["images/photo01.png"]
        assert checked.sample is not None and checked.sample.mask is not None, (name, checked.findings)
        np.testing.assert_array_equal(pack.decode_mask(checked.sample.mask), expected, err_msg=name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_agrees_with_its_turned_image(tmp_path: Path, orientation: int) -> None:
    fill(tmp_path, labelled=2, without=0)
    image, labels = photo(1), mask(1)
    put(tmp_path / "images/turned.jpg", encoded(image, "JPEG", orientation))
    put(tmp_path / "images/twice.png", encoded(image, "PNG", orientation))
    # one drawn on the upright picture, one that carries the same orientation
    put(tmp_path / "masks/turned.png", images.upright(labels, orientation))
    put(tmp_path / "masks/twice.png", encoded(labels, "PNG", orientation))
    found = loaded(tmp_path)
    for name in ("turned.jpg", "twice.png"):
        sample = found[f"images/{name}"].sample
        assert sample is not None and sample.mask is not None
        np.testing.assert_array_equal(pack.decode_mask(sample.mask), images.upright(labels, orientation))
        assert pack.decode_image(sample.image).shape[:2] == (sample.height, sample.width)
    if orientation >= 5:  # a mask drawn on the picture as it is stored shows that by its size
        put(tmp_path / "masks/turned.png", labels)
        sample = loaded(tmp_path)["images/turned.jpg"].sample
        assert sample is not None and sample.mask is not None
        np.testing.assert_array_equal(pack.decode_mask(sample.mask), images.upright(labels, orientation))


def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path) -> None:
    fill(tmp_path, labelled=2, without=0)
    for name in ("cut", "sized", "valued", "coloured", "lossy"):
        put(tmp_path / f"images/{name}.png", photo(5))
        put(tmp_path / f"masks/{name}.png", mask(5))
    put(tmp_path / "images/cut.png", encoded(photo(5), "PNG")[:-60])
    put(tmp_path / "masks/sized.png", mask(5, 31, 20))
    put(tmp_path / "masks/valued.png", np.where(mask(5) == 0, 9, mask(5)).astype(np.uint8))
    put(tmp_path / "masks/coloured.png", photo(5))
    (tmp_path / "masks/lossy.png").unlink()
    put(tmp_path / "masks/lossy.jpg", encoded(mask(5) * 100, "JPEG"))
    put(tmp_path / "masks/grey.png", np.repeat(mask(6)[..., None], 3, axis=2))
    put(tmp_path / "images/grey.png", photo(6))
    found = loaded(tmp_path)
    assert "images/cut.png: cannot be used: damaged" in complaint(found["images/cut.png"])
    assert complaint(found["images/sized.png"]) == "masks/sized.png: the mask is 31×20, the image 20×31"
    number = int((mask(5) == 0).sum())
    assert complaint(found["images/valued.png"]) == (
        f"masks/valued.png: {number} pixels with values [9], allowed 0, 1, 2, 255"
    )
    assert "masks/coloured.png: cannot be used: holds colours (RGB)" in complaint(found["images/coloured.png"])
    assert any("a JPEG" in str(finding) for finding in found["images/lossy.png"].findings)
    (warning,) = found["images/grey.png"].findings
    assert warning.level == "warning" and "three equal channels" in warning.text


HOSTILE = [
    "two words",
    'it\'s "quoted"',
    "üñï ☃ 写真",
    "-rf",
    "--help",
    "{wildcard}",
    "$(touch x)",
    "a;b&c|d",
    "dots..in..it",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_that_fits_in_a_line_works(tmp_path: Path, name: str) -> None:
    fill(tmp_path, labelled=2, without=0)
    put(tmp_path / f"images/{name}/{name}.png", photo(9))
    put(tmp_path / f"masks/{name}/{name}.png", mask(9))
    photos = opened(tmp_path)
    assert f"images/{name}/{name}" in photos.ids("train") + photos.ids("val")
    assert not any(checked.findings for checked in loaded(tmp_path).values())


def test_an_accent_may_be_spelt_in_two_ways(tmp_path: Path) -> None:
    fill(tmp_path, labelled=2, without=0)
    put(tmp_path / "images/caf\u00e9.png", photo(9))
    put(tmp_path / "masks/cafe\u0301.png", mask(9))
    assert opened(tmp_path).layout.orphans == []


@pytest.mark.parametrize("name", [b"new\nline.png", b"not-utf8-\xff.png"])
def test_names_that_no_list_can_hold_are_refused(tmp_path: Path, name: bytes) -> None:
    fill(tmp_path)
    try:
        Path(os.fsdecode(bytes(tmp_path / "images") + b"/" + name)).write_bytes(b"x")
    except OSError:
        return  # a file system that refuses such names itself
    with pytest.raises(UserError, match="line break or is not UTF-8") as caught:
        scan(described(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"images": "../images"}, {"masks": "/etc"}, {"unlabelled": "a/../.."}])
def test_settings_do_not_lead_out_of_the_folder(tmp_path: Path, changes: dict) -> None:
    with pytest.raises(ValidationError, match="inside"):
        described(tmp_path, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"masks": "images"},
        {"unlabelled": "images"},
        {"validation": {"share": 0.5, "images": "a", "masks": "b"}},
        {"validation": {"share": None, "images": "a", "masks": None}},
        {"ignore": [2]},
        {"ignore": [[0, 0, 0]]},
        {"classes": [{"name": "a", "color": [0, 0, 0], "value": v} for v in (0, 1)]},
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, changes: dict) -> None:
    with pytest.raises(ValidationError):
        described(tmp_path, **changes)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    put(tmp_path / "images/photo00.jpg", encoded(photo(0), "JPEG"))
    with pytest.raises(UserError, match=r"photo00\.jpg and images/photo00\.png: same name except for the extension"):
        opened(tmp_path)


def test_no_mask_at_all_says_where_masks_were_looked_for(tmp_path: Path) -> None:
    fill(tmp_path, labelled=0)
    put(tmp_path / "masks/other.png", mask(0))
    with pytest.raises(UserError, match=r"0 images with masks in images.*masks/<name of the image>\.png"):
        opened(tmp_path)
    own = {"share": None, "images": "val", "masks": "val_masks"}
    put(tmp_path / "val/a.png", photo(1))
    put(tmp_path / "val_masks/a.png", mask(1))
    with pytest.raises(
        UserError, match=r"images/photo00\.png would be masks/photo00\.png, and masks holds masks/other"
    ):
        opened(tmp_path, validation=own)
    fill(tmp_path, labelled=1)
    with pytest.raises(UserError, match=r"1 images with masks.*need one each"):
        opened(tmp_path)


def test_missing_folders_and_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        opened(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"masks: no such folder"):
        opened(tmp_path)
    fill(tmp_path)
    for name in ("Thumbs.db", "notes.txt", ".hidden.png", "._photo00.jpg"):
        put(tmp_path / "images" / name, b"nothing")
    assert len(scan(described(tmp_path))) == 19


def test_a_mask_without_an_image_is_told(tmp_path: Path) -> None:
    put(fill(tmp_path) / "masks/lost.png", mask(0))
    (finding,) = opened(tmp_path).findings()
    assert (finding.level, str(finding)) == ("warning", "masks/lost.png: a mask without an image")


def test_the_manifest_changes_with_any_file(tmp_path: Path) -> None:
    folder, raw = fill(tmp_path / "mine"), tmp_path / "raw"
    source = choose(described(folder))

    def manifest() -> str:
        archives = source.archives()
        write(raw / "manifest.json", archives, [archive.fetch(raw) for archive in archives])
        return (raw / "manifest.json").read_text()

    first = manifest()
    assert manifest() == first
    assert json.loads(first)["archives"][0]["folder"] == str(folder)
    content = source.open(read(raw / "manifest.json", source.archives()))
    assert content.ids("train") == opened(folder).ids("train"), "read from the list, not from the folder"
    put(folder / "images/photo00.png", photo(77))
    checked = next(content.load(item) for s in ("train", "val") for item in content.entries(s) if "00" in item.image)
    assert "changed since the download stage; run the download stage again" in complaint(checked)
    assert manifest() != first
    os.utime(folder / "images/photo00.png", (0, 0))
    second = manifest()
    (folder / "masks/photo00.png").unlink()
    assert manifest() != second


def test_the_division_is_a_function_of_names_and_settings(tmp_path: Path) -> None:
    wanted = described(fill(tmp_path))
    names = scan(wanted)
    assert arrange(names[::-1], wanted) == arrange(names, wanted)


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "images/gone.png").symlink_to("/mnt/unplugged/x.png")
    (tmp_path / "images/loop.png").symlink_to("loop.png")
    found = loaded(tmp_path)
    gone, loop = (complaint(found[f"images/{name}.png"]) for name in ("gone", "loop"))
    assert "cannot be used: a link to /mnt/unplugged/x.png, which is not there; is that disk mounted?" in gone
    assert "cannot be used: a link to itself; remove it" in loop
    (tmp_path / "lost").symlink_to("/mnt/unplugged")
    with pytest.raises(UserError, match=r"lost: a link to /mnt/unplugged, which is not there; is that disk mounted\?"):
        opened(tmp_path, unlabelled="lost")
