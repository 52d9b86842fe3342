"""Chosen bands and ranges of values: what `prepare` stores, and where a file has no data."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from pictures import described, encoded, mask, photo, put, tiff
from pydantic import ValidationError

from dualteacher.data import pack
from dualteacher.data.channels import RGB, Channels
from dualteacher.data.formats import images
from dualteacher.data.formats.images import Unreadable
from dualteacher.data.pack import Pack, PackWriter
from dualteacher.data.sources.folder import Folder, FolderContent
from dualteacher.system.errors import UserError

SIZE = (20, 31)


def deep(i: int, bands: int = 4) -> np.ndarray:
    """Twelve-bit values of a scene, (H, W, bands) uint16; each band has a range of its own."""
    values = np.random.default_rng(i).integers(0, 1000, (*SIZE, bands), dtype=np.uint16)
    return values + np.arange(bands, dtype=np.uint16) * 700


def scene(folder: Path, number: int = 8, **options: Any) -> Path:
    for i in range(number):
        put(folder / f"images/{i}.tif", tiff(deep(i), photometric="rgb", planarconfig="contig", **options))
        put(folder / f"masks/{i}.png", mask(i))
    return folder


def opened(folder: Path, **changes: Any) -> FolderContent:
    return Folder(described(folder, **changes)).look()


def stored(content: FolderContent) -> dict[str, np.ndarray]:
    """The pixels that a pack keeps, by id."""
    found = [sample for split in ("train", "val") for sample in content.samples(split)]
    return {sample.image_id: pack.decode_image(sample.image) for sample in found}


def test_bands_and_range_decide_what_a_pack_stores(tmp_path: Path) -> None:
    ranges = [[2100, 3100], [0, 1000], [700, 1700]]
    for image_id, pixels in stored(opened(scene(tmp_path), bands=[4, 1, 2], range=ranges)).items():
        values = deep(int(image_id[-1]))[..., [3, 0, 1]].astype(float)
        expected = np.rint((values - [2100, 0, 700]) * 0.255).astype(np.uint8)
        np.testing.assert_array_equal(pixels, expected)


def test_without_a_range_the_upper_eight_bits_are_kept(tmp_path: Path) -> None:
    for image_id, pixels in stored(opened(scene(tmp_path), bands=[1, 2, 4])).items():
        np.testing.assert_array_equal(pixels, deep(int(image_id[-1]))[..., [0, 1, 3]] >> 8)


def test_percentiles_are_measured_on_the_training_images_band_by_band(tmp_path: Path) -> None:
    content = opened(scene(tmp_path), range="percentile")
    training = np.stack([deep(int(image_id[-1])) for image_id in content.ids("train")])[..., :3]
    expected = np.percentile(training.reshape(-1, 3), (1, 99), axis=0).T
    assert content.channels.bands is None
    np.testing.assert_allclose(content.channels.limits, expected, rtol=1e-5)
    (pixels, *_) = stored(content).values()
    assert np.median(pixels) > 100, "not almost black"
    assert opened(tmp_path, range="percentile").channels == content.channels


def test_a_pack_holds_any_number_of_bands(tmp_path: Path) -> None:
    scene(tmp_path)
    for bands in ([2], [1, 2, 3, 4], [1, 1, 2, 2, 3, 3, 4]):
        for image_id, pixels in stored(opened(tmp_path, bands=bands, range=[0, 4000])).items():
            values = deep(int(image_id[-1]))[..., np.array(bands) - 1]
            np.testing.assert_array_equal(pixels, np.rint(values * (255 / 4000)).astype(np.uint8))


@pytest.mark.parametrize("bands", [None, [1, 2, 4, 3], [2]])
def test_sixteen_bits_are_kept_if_asked_for(tmp_path: Path, bands: list[int] | None) -> None:
    scene(tmp_path)
    chosen = np.array(bands or [1, 2, 3]) - 1
    for limits, top in (("dtype", 65535), ([0, 4000], 4000)):
        content = opened(tmp_path, bands=bands, range=limits, depth=16)
        for image_id, pixels in stored(content).items():
            values = deep(int(image_id[-1]))[..., chosen]
            assert pixels.dtype == np.float32
            np.testing.assert_allclose(pixels, values * (255 / top), atol=0.5 / 257 + 1e-4)


def test_classes_that_8_bits_confuse_differ_in_16(tmp_path: Path) -> None:
    """Two tissues, 5 of 4,000 units apart."""
    values = np.where(mask(0) > 0, 1045, 1040).astype(np.int16)
    data = tiff(values, photometric="minisblack")
    coarse, fine = (Channels((1,), ((-1000.0, 3000.0),), rgb=False, depth=depth) for depth in (8, 16))
    assert len(np.unique(images.read_image(data, coarse).pixels)) == 1
    read = images.read_image(data, fine)
    np.testing.assert_allclose(np.unique(read.pixels), [2040 * 255 / 4000, 2045 * 255 / 4000], atol=0.002)
    np.testing.assert_array_equal(pack.decode_image(read.data), read.pixels)
    np.testing.assert_array_equal(images.read_pixels(data, fine), read.pixels)
    assert Channels.of(fine.describe()) == fine and "with 16 bits" in str(fine)
    assert "depth" not in coarse.describe(), "packs and weights of 8 bits stay as they are"


def test_of_signed_types_and_few_bits_16_bits_keep_the_whole_range() -> None:
    for values, bits, top in ((np.int16, 16, 32767), (np.uint16, 12, 4095), (np.uint8, 8, 255), (np.uint16, 16, 65535)):
        stored_values = np.array([[[0], [top]]], values)
        assert Channels((1,), depth=16).take(stored_values, bits).tolist() == [[[0], [65535]]]


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_any_number_type_is_read_with_a_range(dtype: type) -> None:
    values = (deep(1).astype(np.int32) - 1500).astype(dtype)
    pixels = images.read_pixels(
        tiff(values, photometric="rgb", planarconfig="contig"), Channels(None, ((-1500.0, -500.0),))
    )
    np.testing.assert_array_equal(pixels, np.clip(np.rint(deep(1)[..., :3] * 0.255), 0, 255))


def test_pixels_without_data_belong_to_no_class(tmp_path: Path) -> None:
    scene(tmp_path)
    values = deep(0).astype(np.float32)
    values[:2] = np.nan
    values[2:4] = -9999
    nodata = [(42113, 2, 6, "-9999", True)]
    put(tmp_path / "images/0.tif", tiff(values, photometric="rgb", planarconfig="contig", extratags=nodata))
    content = opened(tmp_path, bands=[4, 2, 1], range=[0, 3000])
    checked = next(
        content.load(e) for split in ("train", "val") for e in content.entries(split) if e.image_id[-1] == "0"
    )
    assert checked.sample is not None and checked.sample.mask is not None
    found = pack.decode_mask(checked.sample.mask)
    assert (found[:4] == 255).all()
    np.testing.assert_array_equal(found[4:], mask(0)[4:])
    assert (pack.decode_image(checked.sample.image)[:4] == 0).all()


def test_what_a_file_lacks_is_said_in_one_line(tmp_path: Path) -> None:
    four = tiff(deep(0), photometric="rgb", planarconfig="contig")
    with pytest.raises(Unreadable, match="holds 4 bands, and `bands` asks for band 5"):
        images.read_image(four, Channels((5, 1, 2)))
    for channels in (RGB, Channels((1, 2, 4))):
        with pytest.raises(Unreadable, match=r"floating-point values.*`range`"):
            images.read_image(tiff(deep(0).astype(np.float32), photometric="rgb", planarconfig="contig"), channels)
    for i in range(8):
        put(tmp_path / f"images/{i}.tif", b"II*\0 nothing")
        put(tmp_path / f"masks/{i}.png", mask(i))
    with pytest.raises(UserError, match="no training image can be read"):
        _ = opened(tmp_path, range="percentile").channels


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"bands": [0, 1, 2]}, "greater than or equal to 1"),
        ({"range": [5, 5]}, "low must be less than high"),
        ({"range": [[0, 1], [0, 2]]}, "one for each of the 3 bands"),
        ({"range": "minmax"}, "range"),
    ],
)
def test_impossible_choices_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        described(tmp_path, **changes)


def test_a_pack_keeps_its_channels_and_is_unchanged_without(tmp_path: Path) -> None:
    for channels in (RGB, Channels(depth=16), Channels((4, 1, 2), ((0.5, 2.25),)), Channels(None, ((0.0, 1.0),) * 3)):
        with PackWriter(tmp_path / "p.arrow", "d", 2, channels):
            pass
        assert Pack(tmp_path / "p.arrow").channels == channels
        assert (b"dualteacher.channels" in (tmp_path / "p.arrow").read_bytes()) == (channels != RGB)
    content = (tmp_path / "p.arrow").read_bytes()
    (tmp_path / "p.arrow").write_bytes(content.replace(b"[0.0, 1.0]", b"[0.0, 2.0]"))
    with pytest.raises(UserError, match="damaged"):
        Pack(tmp_path / "p.arrow")


def test_false_colours_alone_change_neither_reading_nor_storing() -> None:
    data = encoded(photo(1), "JPEG")
    assert images.read_image(data, Channels(rgb=False)).data is data


def test_pictures_of_one_band_each_are_bands_if_bands_are_chosen() -> None:
    values = deep(1, 5)
    pages = tiff(np.moveaxis(values, 2, 0), photometric="minisblack")
    chosen = images.read_image(pages, Channels((5, 1), ((0.0, 4000.0),)))
    np.testing.assert_array_equal(chosen.pixels, np.rint(values[..., [4, 0]] * (255 / 4000)).astype(np.uint8))
    assert chosen.notes == ()
    first = images.read_image(pages, Channels(None, ((0.0, 4000.0),)))
    np.testing.assert_array_equal(first.pixels[..., 2], np.rint(values[..., 0] * (255 / 4000)).astype(np.uint8))
    assert first.notes == ("holds 5 pictures: only the first is read",)


def test_pictures_of_other_sizes_are_no_bands() -> None:
    """Overviews, for example."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for step in (1, 2):
            writer.write(deep(1)[::step, ::step, 0], photometric="minisblack")
    with pytest.raises(Unreadable, match="holds 1 band, and `bands` asks for band 2"):
        images.read_image(file.getvalue(), Channels((1, 2)))


@pytest.mark.parametrize("channels", [RGB, Channels((1, 2), ((0.0, 1.0),))])
def test_complex_numbers_are_refused(channels: Channels) -> None:
    data = tiff(deep(1, 2).astype(np.complex64), photometric="minisblack", planarconfig="contig")
    with pytest.raises(Unreadable, match="complex numbers"):
        images.read_image(data, channels)
