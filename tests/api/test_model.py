"""`dualteacher.load` and what a model does: the same results as the command line, and errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dualteacher
from dualteacher.system.errors import UserError
from tests.cli.conftest import COLORS, picture, pixels, predict, read, run_folder  # noqa: F401

pytestmark = pytest.mark.usefixtures("run_folder")
ODD = [(64, 64), (33, 47), (64, 64), (101, 20), (1, 1), (47, 33)]


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_package_alone_imports_nothing_heavy() -> None:
    code = "import sys, dualteacher; print([m for m in ('torch', 'numpy', 'dualteacher.api') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "[]"
    assert {"load", "Model", "Prediction", "UserError"} <= set(dir(dualteacher))
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        dualteacher.laod  # noqa: B018


@pytest.mark.parametrize("options", [{}, {"scales": [0.5, 1.0], "flip": True}, {"large": 0.001, "window": 32}])
def test_masks_are_the_commands_byte_for_byte(options: dict) -> None:
    for number, size in enumerate(ODD):
        picture(f"photos/{number}.png", *size, seed=number)
    words = [f"--scale={value}" for value in options.get("scales", [])] + ["--flip"] * ("flip" in options)
    words += [f"--{name}={options[name]}" for name in ("large", "window") if name in options]
    predict("photos", "--output", "out", "--confidence", *words)
    model = dualteacher.load("run", device="cpu")
    files = sorted(Path("photos").iterdir())
    for file, found in zip(files, model.predict(files, **options), strict=True):
        saved = found.save(f"ours/{file.name}")
        assert saved.read_bytes() == Path("out/masks", file.name).read_bytes(), file
        assert found.mask.dtype == np.uint8 and found.confidence.dtype == np.float32
        assert (np.rint(found.confidence * 255) == read(f"out/confidence/{file.name}")).all()
    assert len({tuple(np.unique(read(str(mask)))) for mask in Path("ours").iterdir()}) > 1, "a test that could not fail"


def test_a_file_its_pixels_and_its_picture_are_the_same_image() -> None:
    made = picture("a.png", 50, 37)
    model = dualteacher.load(Path("run/student.safetensors"), device="cpu")
    first = model.predict("a.png")
    for other in (Path("a.png"), made, Image.open("a.png"), np.asfortranarray(made)):
        assert (model.predict(other).mask == first.mask).all()
    assert first.mask.shape == first.confidence.shape == (37, 50) and first.probabilities is None
    assert (first.colours[first.mask == 1] == COLORS[1]).all() and first.colours.shape == (37, 50, 3)
    assert (model.predict(Image.fromarray(made).convert("RGBA")).mask == first.mask).all()
    grey = made[..., 0]
    assert (model.predict(grey).mask == model.predict(np.stack([grey] * 3, axis=2)).mask).all()


@pytest.mark.parametrize("options", [{}, {"flip": True}, {"large": 0.001, "window": 32, "stride": 20}])
def test_probabilities_agree_with_mask_and_confidence(options: dict) -> None:
    found = dualteacher.load("run", device="cpu").predict(pixels(70, 90), probabilities=True, **options)
    assert found.probabilities is not None and found.probabilities.shape == (3, 70, 90)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(found.probabilities.max(0), found.confidence, atol=1e-5)
    assert (found.probabilities.argmax(0) == found.mask).mean() > 0.999


def test_a_list_keeps_its_order_and_may_be_empty() -> None:
    model = dualteacher.load("run", device="cpu")
    made = [pixels(*size, seed=number) for number, size in enumerate(ODD)]
    together = model.predict(made, batch=2)
    assert [one.mask.shape for one in together] == ODD
    assert all((one.mask == model.predict(image).mask).all() for one, image in zip(together, made, strict=True))
    assert model.predict([]) == []


def test_classes_metrics_and_saving() -> None:
    model = dualteacher.load("run", device="cpu")
    assert [(entry.name, list(entry.color)) for entry in model.classes] == [
        (f"class {number}", color) for number, color in enumerate(COLORS)
    ]
    assert model.metrics is None
    Path("run/metrics.json").write_text(json.dumps({"miou": 0.5}))
    assert model.metrics == {"miou": 0.5}
    Path("folder").mkdir()
    for target, written in (("copy.safetensors", "copy.safetensors"), ("folder", "folder/student.safetensors")):
        assert model.save(target) == Path(written)
        assert Path(written).read_bytes() == Path("run/student.safetensors").read_bytes()
    assert "3 classes" in repr(model)


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError) as error:
        dualteacher.load("nothing")
    assert "nothing: no such file" in one_line(error)
    model = dualteacher.load("run", device="cpu")
    picture("good.png", 20, 20)
    Path("bad.png").write_bytes(b"nothing")
    with pytest.raises(dualteacher.UserError) as error:
        model.predict(["good.png", "bad.png"])
    assert one_line(error).startswith("bad.png: cannot be predicted: not an image")
    with pytest.raises(UserError, match=r"none\.png: no such file"):
        model.predict("none.png")
    with pytest.raises(UserError, match="run: a folder; give a list of its files"):
        model.predict("run")
    for wrong, told in (
        (np.zeros((4, 4, 3)), r"images\[0\]: an array of float64 \(4, 4, 3\); expected uint8"),
        (np.zeros((3, 4, 4), np.uint8), r"\(3, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "without pixels"),
        (Image.new("I;16", (4, 4)), r"images\[0\]: a Pillow image of mode I;16"),
    ):
        with pytest.raises(UserError, match=told):
            model.predict(wrong)
    for options in ({"precision": "int8"}, {"scales": []}, {"window": 5}, {"window": 64, "stride": 65}):
        with pytest.raises(UserError, match=next(reversed(options))):
            model.predict("good.png", **options)
    with pytest.raises(UserError, match=r"\.png"):
        model.predict("good.png").save("mask.jpg")
