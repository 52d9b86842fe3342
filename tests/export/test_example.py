"""examples/run_onnx.py sees the pixels that `predict` and training see."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dualteacher.data.formats import images

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))  # where the tests of folders keep theirs
from pictures import encoded, photo, png16

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
    seen: list[np.ndarray] = []
    about = {"inference": {"resize": None}, "classes": [{"name": "all", "color": [0, 0, 0]}]}

    class Session:
        def __init__(self, model: str) -> None:
            pass

        def get_modelmeta(self) -> SimpleNamespace:
            return SimpleNamespace(custom_metadata_map={"dualteacher": json.dumps(about)})

        def run(self, _: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(given["image"][0])
            return [np.zeros((1, 1, *given["image"].shape[2:]), np.float32)]

    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "model.onnx", str(tmp_path / name)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    (pixels,) = seen
    expected = images.read_pixels(FILES[name])
    np.testing.assert_array_equal(np.rint(pixels.transpose(1, 2, 0) * 255), expected)
    with Image.open((tmp_path / name).with_suffix(".classes.png")) as mask:
        assert (mask.height, mask.width) == expected.shape[:2], "upright"
