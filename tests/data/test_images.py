"""Pictures as people have them become upright 8-bit RGB; what a pack can hold as it is keeps its bytes."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pictures import encoded, mask, photo, png16
from PIL import Image, ImageOps

from dualteacher.data import pack
from dualteacher.data.formats import images, mask_files


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_and_so_does_what_the_pack_holds(kind, orientation):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(photo(1), kind, orientation, **options)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    read = images.read_image(data)
    np.testing.assert_array_equal(read.pixels, expected)
    np.testing.assert_array_equal(pack.decode_image(read.data), expected)
    assert read.orientation == orientation
    assert (read.data == data) == (kind in ("PNG", "JPEG") and orientation == 1), "bytes are kept where they can be"


HOLDS = {
    "PNG": ["1", "L", "P", "LA", "RGBA"],
    "JPEG": ["L", "CMYK", "YCbCr"],
    "TIFF": ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"],
    "WEBP": ["L", "RGBA"],
}


@pytest.mark.parametrize("kind, mode", [(kind, mode) for kind, modes in HOLDS.items() for mode in modes])
def test_every_mode_becomes_rgb(kind, mode):
    data = encoded(Image.fromarray(photo(2)).convert(mode), kind)
    read = images.read_image(data)
    assert read.pixels.shape == (20, 31, 3) and read.pixels.dtype == np.uint8
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(read.pixels, np.asarray(opened.convert("RGB")))
    np.testing.assert_array_equal(pack.decode_image(read.data), read.pixels)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_of_16_bits_the_upper_8_are_kept(kind):
    deep = np.random.default_rng(0).integers(0, 65536, (9, 8), dtype=np.uint16)
    read = images.read_image(encoded(deep, kind))
    np.testing.assert_array_equal(read.pixels, np.repeat((deep >> 8)[..., None], 3, axis=2))
    assert not read.notes
    (note,) = images.read_image(encoded(deep >> 5, kind)).notes
    assert "almost black" in note


def test_16_bit_colours():
    deep = np.random.default_rng(0).integers(0, 65536, (9, 8, 3), dtype=np.uint16)
    data = png16(deep)
    read = images.read_image(data)
    np.testing.assert_array_equal(read.pixels, deep >> 8)
    assert read.data != data, "a pack holds 8 bits"


@pytest.mark.parametrize("kind", [b"iTXt", b"iCCP"])
def test_a_png_with_much_metadata_of_an_image_editor(kind):
    """2 MB, more than Pillow's default."""
    head = {b"iTXt": b"XML:com.adobe.xmp\0\1\0\0\0", b"iCCP": b"icc\0\0"}[kind]
    body = kind + head + zlib.compress(bytes(2 << 20))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = encoded(photo(1), "PNG")
    read = images.read_image(data[:33] + chunk + data[33:])
    np.testing.assert_array_equal(read.pixels, photo(1))
    np.testing.assert_array_equal(pack.decode_image(read.data), photo(1))


def test_of_several_pictures_the_first_is_read():
    data = encoded(photo(1), "TIFF", save_all=True, append_images=[Image.fromarray(photo(2))])
    read = images.read_image(data)
    np.testing.assert_array_equal(read.pixels, photo(1))
    assert read.notes == ("holds 2 pictures: only the first is read",)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000)])
def test_tiny_and_narrow(shape):
    assert images.read_image(encoded(photo(1, *shape), "JPEG")).pixels.shape == (*shape, 3)


def test_what_has_no_8_bit_form_is_refused():
    with pytest.raises(images.Unreadable, match="floating-point"):
        images.read_image(encoded(np.ones((4, 4), np.float32), "TIFF"))
    with pytest.raises(images.Unreadable, match="32-bit"):
        images.read_image(encoded(np.full((4, 4), 70_000, np.int32), "TIFF"))


def test_a_header_that_claims_too_much_is_refused_unread():
    data = bytearray(encoded(photo(1), "BMP"))
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(images.Unreadable, match=r"60000|exceeds limit"):
        images.read_image(bytes(data))


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_no_image(data):
    with pytest.raises(images.Unreadable):
        images.read_image(data)
    with pytest.raises(images.Unreadable):
        mask_files.read_values(data, color=False)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_truncated_file_is_noticed(kind):
    data = encoded(photo(1, 64, 64), kind)
    for cut in (len(data) // 3, len(data) * 2 // 3, len(data) - 40):
        with pytest.raises(images.Unreadable):
            images.read_image(data[:cut])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.data())
@hypothesis_settings(max_examples=80, deadline=None)
def test_damage_never_ends_in_anything_else(data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "TIFF", "WEBP", "BMP"]))
    content = bytearray(encoded(photo(1), kind, orientation=6 if kind != "BMP" else 1))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    for read in (images.read_image, lambda content: mask_files.read_values(content, color=True)):
        try:
            read(bytes(content))
        except images.Unreadable as error:
            assert "\n" not in str(error)


def test_an_index_is_what_the_file_stores():
    values = mask(1, classes=200)
    paletted = Image.fromarray(values)
    paletted.putpalette([255 - i // 3 for i in range(768)])
    deep = values.astype(np.uint16) * 300
    for data, expected in [
        (encoded(values, "PNG"), values),
        (encoded(paletted, "PNG"), values),
        (encoded(values, "TIFF"), values),
        (encoded(deep, "PNG"), deep),
        (encoded(Image.fromarray(values).convert("LA"), "PNG"), values),
        (encoded(values > 90, "PNG"), values > 90),
    ]:
        read = mask_files.read_values(data, color=False)
        np.testing.assert_array_equal(read.values, expected)
        assert not read.grey_as_color
    grey = mask_files.read_values(encoded(np.repeat(values[..., None], 3, axis=2), "PNG"), color=False)
    np.testing.assert_array_equal(grey.values, values)
    assert grey.grey_as_color
    with pytest.raises(mask_files.Colored):
        mask_files.read_values(encoded(photo(1), "PNG"), color=False)


def test_a_colour_is_read_from_rgb_rgba_and_palettes():
    values = np.array([[0, 1], [2, 1]], np.uint8)
    palette = np.array([[0, 0, 0], [128, 0, 7], [1, 255, 3]], np.uint8)
    paletted = Image.fromarray(values)
    paletted.putpalette(palette.tobytes())
    expected = np.array([mask_files.pack_color(color.tolist()) for color in palette])[values]
    for image in (paletted, Image.fromarray(palette[values]), Image.fromarray(palette[values]).convert("RGBA")):
        np.testing.assert_array_equal(mask_files.read_values(encoded(image, "PNG"), color=True).values, expected)
