"""examples/run_onnx.py sees the pixels that `predict` and training see."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dualteacher.data.channels import Channels
from dualteacher.data.formats import images

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))  # where the tests of folders keep theirs
from pictures import encoded, photo, png16, tiff

EXAMPLE = Path(__file__).parents[2] / "examples" / "run_onnx.py"
HEIGHT, WIDTH = 64, 96  # multiples of 32, so that nothing is resized
DEEP = np.random.default_rng(0).integers(0, 1 << 16, (HEIGHT, WIDTH, 3), dtype=np.uint16)
PHOTO = photo(1, HEIGHT, WIDTH)
FILES = {
    "upright.png": encoded(PHOTO, "PNG"),
    **{f"turned{turn}.jpg": encoded(PHOTO, "JPEG", turn) for turn in range(2, 9)},
    "turned.png": encoded(PHOTO, "PNG", 6),
    "turned.tif": encoded(PHOTO, "TIFF", 6),
    "deep_grey.png": encoded(DEEP[..., 0], "PNG"),
    "deep_grey.tif": encoded(DEEP[..., 0], "TIFF"),
    "deep_rgb.png": png16(DEEP),
    "grey_alpha.png": encoded(Image.fromarray(PHOTO).convert("LA"), "PNG"),
    "transparent.png": encoded(Image.fromarray(PHOTO).convert("RGBA"), "PNG"),
    "palette.png": encoded(Image.fromarray(PHOTO).convert("P"), "PNG"),
    "black_and_white.png": encoded(Image.fromarray(PHOTO).convert("1"), "PNG"),
    "print.jpg": encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_example_reads_pixels_as_the_pipeline_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    expected = images.read_pixels(FILES[name])
    assert_sees(tmp_path / name, expected, {}, monkeypatch)
    with Image.open((tmp_path / name).with_suffix(".classes.png")) as mask:
        assert (mask.height, mask.width) == expected.shape[:2], "upright"


FOUR = np.random.default_rng(1).integers(0, 3000, (HEIGHT, WIDTH, 4), dtype=np.uint16)
CHOSEN = Channels((4, 1, 2), ((100.0, 2000.0),))
BY_TYPE = Channels((2, 1, 3))
FOUR_BANDS = Channels((4, 1, 2, 3), ((100.0, 2000.0), (0.0, 3000.0), (7.0, 900.0), (-5.0, 2500.0)))
STORED = {
    "planes.tif": (tiff(np.moveaxis(FOUR, 2, 0), photometric="rgb", planarconfig="separate"), CHOSEN),
    "signed.tif": (tiff(FOUR.astype(np.int16) - 1500, photometric="rgb", planarconfig="contig"), CHOSEN),
    "float.tif": (
        tiff(np.where(FOUR < 50, np.nan, FOUR).astype(np.float32), photometric="rgb", planarconfig="contig"),
        CHOSEN,
    ),
    "twelve.tif": (tiff(FOUR, photometric="rgb", planarconfig="contig", bitspersample=12), BY_TYPE),
    "deep.png": (png16(DEEP), Channels(None, ((100.0, 40000.0), (0.0, 300.0), (5.0, 60000.0)))),
    "deep_grey.png": (encoded(DEEP[..., 0], "PNG"), Channels(None, ((100.0, 40000.0),))),
    "four.tif": (tiff(FOUR, photometric="rgb", planarconfig="contig"), FOUR_BANDS),
    "one.tif": (tiff(FOUR[..., 0]), Channels((1,), ((0.0, 3000.0),))),
    "pictures.tif": (tiff(np.moveaxis(FOUR, 2, 0), photometric="minisblack"), FOUR_BANDS),
    "infrared.jpg": (encoded(PHOTO, "JPEG", 6), Channels(rgb=False)),
    "photo.jpg": (encoded(PHOTO, "JPEG", 6), Channels((3, 2, 1))),
    "fine.tif": (tiff(FOUR, photometric="rgb", planarconfig="contig"), replace(FOUR_BANDS, depth=16)),
    "fine_signed.tif": (tiff(FOUR.astype(np.int16), photometric="rgb", planarconfig="contig"), Channels(depth=16)),
    "signed_type.tif": (tiff(FOUR.astype(np.int16), photometric="rgb", planarconfig="contig"), BY_TYPE),
}


@pytest.mark.parametrize("name", STORED)
def test_the_example_reads_chosen_bands_as_the_pipeline_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, channels = STORED[name]
    (tmp_path / name).write_bytes(data)
    expected = images.read_pixels(data, channels)
    np.testing.assert_array_equal(images.read_image(data, channels).pixels, expected)
    assert_sees(tmp_path / name, expected, {"channels": channels.describe()}, monkeypatch)


def assert_sees(file: Path, expected: np.ndarray, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the example on a file; `expected` are the pixels (H, W, C) that the network gets. more: its description."""
    seen: list[np.ndarray] = []
    about = {"inference": {"resize": None}, "classes": [{"name": "all", "color": [0, 0, 0]}]} | more

    class Session:
        def __init__(self, model: str) -> None:
            pass

        def get_modelmeta(self) -> SimpleNamespace:
            return SimpleNamespace(custom_metadata_map={"dualteacher": json.dumps(about)})

        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(shape=["batch", 3, "height", "width"])]

        def run(self, _: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(given["image"][0])
            return [np.zeros((1, 1, *given["image"].shape[2:]), np.float32)]

    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "model.onnx", str(file)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    (pixels,) = seen
    found = pixels.transpose(1, 2, 0) * 255
    if expected.dtype == np.uint8:
        np.testing.assert_array_equal(np.rint(found), expected)
    else:
        np.testing.assert_allclose(found, expected, atol=1e-4)
