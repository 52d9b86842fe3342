"""A TIFF's pixels are the same however it stores them; what an 8-bit picture cannot hold is said."""

from __future__ import annotations

import io
from itertools import product
from typing import Any

import numpy as np
import pytest
from pictures import described, encoded, tiff
from PIL import Image

from dualteacher.core.labels import IGNORE
from dualteacher.data.channels import Channels
from dualteacher.data.formats import images, mask_files
from dualteacher.data.formats.label_map import LabelMap

Y, X = np.mgrid[:40, :56]
COLORS = np.stack([X * 4, Y * 6, X + Y], -1).astype(np.uint8)
GREY = COLORS[..., 0]


def planes(values: np.ndarray) -> np.ndarray:
    return np.moveaxis(values, 2, 0)


STORED = list(product([None, "zlib", "zstd", "lzw"], [None, (16, 16)], "<>", [np.uint8, np.uint16], [False, True]))


@pytest.mark.parametrize("compression, tile, byteorder, dtype, apart", STORED)
def test_every_way_of_storing_colours(compression, tile, byteorder, dtype, apart):
    values = COLORS.astype(dtype) * (257 if dtype is np.uint16 else 1)
    options: dict[str, Any] = {"photometric": "rgb", "compression": compression, "byteorder": byteorder}
    options |= {"tile": tile} if tile else {"rowsperstrip": 16}
    options |= {"predictor": True} if compression == "zlib" else {}
    if apart:
        data = tiff(planes(values), planarconfig="separate", **options)
    else:
        data = tiff(values, planarconfig="contig", **options)
    read = images.read_image(data)
    np.testing.assert_array_equal(read.pixels, COLORS)
    assert read.notes == ()


@pytest.mark.parametrize(
    "values, options",
    [
        (GREY, {"compression": "zlib", "predictor": True}),
        (GREY.astype(np.uint16) * 257, {"byteorder": ">"}),
        (GREY.astype(np.uint16) * 257, {"byteorder": ">", "compression": "zlib", "predictor": True}),
        (255 - GREY, {"photometric": "miniswhite"}),
        ((255 - GREY).astype(np.uint16) * 257, {"photometric": "miniswhite"}),
        (GREY.astype(np.uint16) * 16, {"bitspersample": 12}),
        (GREY.astype(np.int32) * 256, {}),
        (np.dstack([GREY, np.full_like(GREY, 255)]), {"planarconfig": "contig", "extrasamples": ["unassalpha"]}),
    ],
)
def test_every_way_of_storing_grey(values, options):
    read = images.read_image(tiff(values, **{"photometric": "minisblack", **options}))
    np.testing.assert_array_equal(read.pixels, np.repeat(GREY[..., None], 3, axis=2))
    assert read.notes == ()


def test_further_bands_are_said_and_transparency_is_dropped():
    four = np.dstack([COLORS, GREY])
    for values in (four, four.astype(np.uint16) * 257):
        options: dict[str, Any] = {"photometric": "rgb", "planarconfig": "contig"}
        infrared = images.read_image(tiff(values, extrasamples=["unspecified"], **options))
        alpha = images.read_image(tiff(values, extrasamples=["unassalpha"], **options))
        np.testing.assert_array_equal(infrared.pixels, COLORS)
        np.testing.assert_array_equal(alpha.pixels, COLORS)
        assert infrared.notes == ("holds 4 bands: the first three are read as red, green and blue",)
        assert alpha.notes == ()
    many = images.read_image(tiff(planes(np.dstack([four] * 3)), photometric="minisblack", planarconfig="separate"))
    np.testing.assert_array_equal(many.pixels, COLORS)
    assert many.notes == ("holds 12 bands: the first three are read as red, green and blue",)
    two = np.dstack([GREY, 255 - GREY])
    read = images.read_image(tiff(two, photometric="minisblack", planarconfig="contig", extrasamples=["unspecified"]))
    np.testing.assert_array_equal(read.pixels[..., 2], GREY)
    assert read.notes == ("holds 2 bands: only the first is read",)


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "1"])
def test_what_only_pillow_decodes(mode):
    picture = Image.fromarray(COLORS)
    picture = Image.frombytes("LAB", picture.size, COLORS.tobytes()) if mode == "LAB" else picture.convert(mode)
    data = encoded(picture, "TIFF", **({"compression": "group4"} if mode == "1" else {}))
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(images.read_image(data).pixels, np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize(
    "values, bits",
    [
        (GREY.astype(np.int16) * 128, "16"),
        ((GREY >> 1).astype(np.int8), "8"),
        (GREY.astype(np.uint32) * 257, "32"),
        (GREY.astype(np.int32) * 257, "32"),
    ],
)
def test_signed_and_32_bit_integers_keep_their_upper_bits(values, bits):
    read = images.read_image(tiff(values, photometric="minisblack"))
    expected = GREY & 0xFE if bits == "8" else GREY
    np.testing.assert_array_equal(read.pixels, np.repeat(expected[..., None], 3, axis=2))
    assert not read.notes


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.int32])
def test_small_values_of_many_bits_are_said_to_come_out_black(dtype):
    data = tiff((GREY >> 1).astype(dtype), photometric="minisblack")
    for channels in (Channels(), Channels((1,))):
        (note,) = images.read_image(data, channels).notes
        assert f"{8 * np.dtype(dtype).itemsize}-bit values reach only" in note and "almost black" in note
    assert images.read_image(data, Channels((1,), ((0.0, 127.0),))).notes == ()


def test_negative_values_are_named():
    with pytest.raises(images.Unreadable, match=r"holds negative values: save it .* or set `range`"):
        images.read_image(tiff(GREY.astype(np.int16) - 200, photometric="minisblack"))


INDICES = np.random.default_rng(0).integers(0, 4, (40, 56))


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
def test_an_index_may_be_any_kind_of_number(dtype):
    read = mask_files.read_values(
        tiff(INDICES.astype(dtype), photometric="minisblack", compression="zlib"), color=False
    )
    np.testing.assert_array_equal(read.values, INDICES)


def test_a_bilevel_mask_and_a_palette():
    read = mask_files.read_values(tiff(INDICES > 1, photometric="minisblack"), color=False)
    np.testing.assert_array_equal(read.values, INDICES > 1)
    paletted = Image.fromarray(INDICES.astype(np.uint8))
    paletted.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    read = mask_files.read_values(encoded(paletted, "TIFF"), color=False)
    np.testing.assert_array_equal(read.values, INDICES)
    assert read.palette is not None and read.palette[1] == (40, 50, 60)
    colored = mask_files.read_values(encoded(paletted, "TIFF"), color=True)
    assert set(np.unique(colored.values[INDICES == 1])) == {mask_files.pack_color([40, 50, 60])}


def test_pixels_without_data_are_ignored():
    """A negative value where `ignore` lists it, NaN always."""
    table = LabelMap(described(None, ignore=[-9999]))  # type: ignore[arg-type]
    for nothing, dtype in ((-9999, np.int16), (np.nan, np.float32)):
        stored = np.where(INDICES == 3, nothing, INDICES).astype(dtype)
        read = mask_files.read_values(tiff(stored, photometric="minisblack"), color=False)
        mask, *unmatched = table.index(read.values)
        np.testing.assert_array_equal(mask, np.where(INDICES == 3, IGNORE, INDICES))
        assert unmatched == [{}, 0, 0], "no unlisted, no nearest, no far values"


@pytest.mark.parametrize(
    "values, words",
    [
        (INDICES / 4, "probability map"),
        (INDICES.astype(np.uint32) * 2**31, "no class indices"),
        (np.dstack([INDICES] * 5).astype(np.uint8), "holds 5 bands where one index per pixel is expected"),
    ],
)
def test_what_is_no_index_is_refused(values, words):
    options = {"planarconfig": "contig"} if values.ndim == 3 else {}
    with pytest.raises(images.Unreadable, match=words):
        mask_files.read_values(tiff(values, photometric="minisblack", **options), color=False)
