"""`predict`: masks, overlays, areas and confidence maps for every image that can be read, a list of the others."""

from __future__ import annotations

import csv
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dualteacher import cli
from dualteacher.inference.predictor import Predictor, to_tensor
from dualteacher.models import saved
from dualteacher.settings import Inference
from dualteacher.system.errors import UserError

from .conftest import COLORS, counted, picture, pixels, predict, read, save_network

PAGE = Path(__file__).parents[2] / "docs/predict.md"
pytestmark = pytest.mark.usefixtures("run_folder")


def predictor(**changes: object) -> Predictor:
    """What `predict` must agree with."""
    model, description = saved.load(Path("run/student.safetensors"))
    return Predictor(model, Inference.model_validate(description["inference"]), **changes)  # type: ignore[arg-type]


def outputs(kind: str, ending: str) -> list[str]:
    return sorted(path.relative_to(f"out/{kind}").as_posix() for path in Path(f"out/{kind}").rglob(f"*{ending}"))


def test_every_image_below_a_folder() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    picture("photos/a.jpg", 50, 40, exif=turned)
    picture("photos/deep er/b.tif", 33, 21)
    picture("photos/c.jpg", 20, 20)
    picture("photos/c.png", 20, 20)
    picture("photos/.hidden.png", 20, 20)
    picture("single.webp", 20, 30)
    Path("photos/notes.txt").write_text("no image")
    predict("photos", "single.webp", "photos/a.jpg", "--output", "out", "--device", "cpu")
    assert outputs("masks", ".png") == ["a.png", "c.jpg.png", "c.png.png", "deep er/b.png", "single.png"]
    assert outputs("overlays", ".jpg") == ["a.jpg", "c.jpg.jpg", "c.png.jpg", "deep er/b.jpg", "single.jpg"]
    assert not Path("out/confidence").exists() and not Path("out/errors.csv").exists()
    with Image.open("out/masks/a.png") as mask, Image.open("out/overlays/a.jpg") as overlay:
        assert mask.size == overlay.size == (40, 50), "upright"
        assert mask.mode == "P" and set(np.unique(np.asarray(mask))) <= {0, 1, 2}
        assert (mask.getpalette() or [])[:9] == [value for color in COLORS for value in color]


def test_masks_are_the_predictors_whatever_sizes_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(64, 64), (96, 64), (64, 64), (70, 50), (64, 64), (96, 64)]
    made = [picture(f"photos/{i}.png", *size, seed=i) for i, size in enumerate(sizes)]
    expected = [predictor()(to_tensor([image], torch.device("cpu")))[0].numpy() for image in made]
    assert max(len(np.unique(mask)) for mask in expected) > 1, "a test that could not fail"
    shapes = counted(monkeypatch)
    predict("photos", "--output", "out", "--batch", "2", "--no-overlays")
    assert sorted(shapes) == [(1, 3, 64, 64), (1, 3, 64, 64), (2, 3, 64, 64), (2, 3, 64, 96)]
    for number, mask in enumerate(expected):
        assert (read(f"out/masks/{number}.png") == mask).all(), number
    assert not Path("out/overlays").exists()


@pytest.mark.parametrize("how", [{"mode": "whole"}, {"mode": "slide", "window": 48, "stride": 32}])
def test_a_vision_transformer_predicts_images_of_any_size(how: dict[str, object]) -> None:
    """Patches of 16 do not divide the images' sides."""
    plain = {"backbone": "test_vit", "architecture": "dpt"}
    save_network("run/student.safetensors", model=plain, resize=None, multiple=1, **how)
    made = [picture(f"photos/{i}.png", *size, seed=i) for i, size in enumerate([(53, 37), (90, 71)])]
    predict("photos", "--output", "out", "--no-overlays")
    for number, image in enumerate(made):
        expected = predictor()(to_tensor([image], torch.device("cpu")))[0].numpy()
        assert expected.shape == image.shape[:2]
        assert (read(f"out/masks/{number}.png") == expected).all(), number


def test_scales_flip_and_confidence() -> None:
    image = picture("a.png", 80, 64)
    options = ("--scale", "0.5", "--scale", "1", "--flip", "--confidence")
    predict("a.png", "--output", "out", *options)
    sure, label = predictor(scales=(0.5, 1.0), flip=True).probabilities(to_tensor([image], torch.device("cpu"))).max(1)
    assert (read("out/masks/a.png") == label[0].numpy()).all()
    assert (read("out/confidence/a.png") == (255 * sure[0]).round().numpy()).all()
    predict("a.png", "--output", "plain", "--confidence")
    one = predictor().probabilities(to_tensor([image], torch.device("cpu"))).amax(1)[0].numpy()
    assert np.abs(read("plain/confidence/a.png") - 255 * one).max() < 0.51
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(read("plain/confidence/a.png"), read("out/confidence/a.png"))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_nearly_the_same(precision: str) -> None:
    image = picture("a.png", 96, 96)
    predict("a.png", "--output", "out", "--precision", precision)
    whole = predictor()(to_tensor([image], torch.device("cpu")))[0].numpy()
    assert (read("out/masks/a.png") == whole).mean() > 0.9


def test_areas_are_the_masks() -> None:
    for number in range(3):
        picture(f"photos/{number}.png", 40 + number, 30, seed=number)
    predict("photos", "--output", "out")
    areas = pd.read_parquet("out/areas.parquet")
    assert list(areas) == ["image", "class_index", "class_name", "pixels", "share"]
    assert list(areas["image"]) == [name for name in "012" for _ in range(3)]
    assert list(areas["class_name"]) == ["class 0", "class 1", "class 2"] * 3, "classes without a pixel have a row too"
    for name, rows in areas.groupby("image"):
        mask = read(f"out/masks/{name}.png")
        assert list(rows["pixels"]) == np.bincount(mask.ravel(), minlength=3).tolist()
        assert rows["share"].sum() == pytest.approx(1)


def test_what_cannot_be_read_is_listed_and_the_rest_is_predicted() -> None:
    picture("photos/good.png", 20, 20)
    Path("photos/bad.png").write_bytes(b"nothing")
    Path("photos/none.tif").write_bytes(b"II*\0")
    picture("photos/cut.jpg", 64, 64)
    Path("photos/cut.jpg").write_bytes(Path("photos/cut.jpg").read_bytes()[:-200])
    told = predict("photos", "--output", "out", code=1)
    assert "cannot be predicted: photos/bad.png: not an image" in told and "photos/cut.jpg: damaged" in told
    assert "1 of 4 images predicted" in told
    assert outputs("masks", ".png") == ["good.png"]
    with open("out/errors.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["photos/bad.png", "photos/cut.jpg", "photos/none.tif"]
    assert all(row["reason"] for row in rows)
    for name in ("bad.png", "cut.jpg", "none.tif"):
        Path("photos", name).unlink()
    picture("photos/bad.png", 20, 20)
    predict("photos", "--output", "out")
    assert outputs("masks", ".png") == ["bad.png", "good.png"] and not Path("out/errors.csv").exists()


def test_an_earlier_runs_masks_and_overlays_are_no_photos() -> None:
    picture("photos/a.jpg", 20, 20)
    for output in ("photos/first", "out"):
        predict("photos", "--output", output, "--device", "cpu")
    assert outputs("masks", ".png") == ["a.png"]
    predict("photos/first/overlays", "--output", "again", "--device", "cpu")
    assert Path("again/masks/a.png").exists(), "if asked for"


def test_outputs_that_cannot_be_written_are_failures_of_that_image() -> None:
    picture("photos/a.jpg", 20, 20)
    picture("photos/a.png/b.jpg", 20, 20)  # wants a folder where the other's mask lies
    for extension in ("jpg", "png"):  # equal names keep their extension: n….jpg.png has more than 255 bytes
        picture(f"photos/{'n' * 250}.{extension}", 20, 20)
    told = predict("photos", "--output", "out", "--batch", "1", code=1)
    assert told.count("cannot be predicted") == 3 and told.count("its outputs cannot be written") == 3
    assert told.count("the name is too long") == 2 and "1 of 4 images predicted" in told
    assert not list(Path("out").rglob("*.tmp*"))


def test_names_that_clash_and_patterns() -> None:
    for name in ("one/a.png", "two/a.png", "two/b.jpg", "two/b.jpg.png", "two/b.png", "two/x[1].png"):
        picture(name, 9, 9)
    Path("two/notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"2 images have the output name a.png \(one/a.png, two/a.png\)"):
        CliRunner().invoke(cli.app, ["predict", "run", "one", "two"], catch_exceptions=False)
    assert not Path("predictions").exists()
    predict("*/*", "--output", "out")
    names = ["one/a.png", "two/a.png", "two/b.jpg.png", "two/b.jpg.png.png", "two/b.png.png", "two/x[1].png"]
    assert outputs("masks", ".png") == names
    predict("two/x[1].png", "one/**/*.png", "--output", "out2")
    assert sorted(path.name for path in Path("out2/masks").iterdir()) == ["a.png", "x[1].png"]


def test_hostile_names() -> None:
    names = ["-dash.png", "a b\nc.png", "ünï ★.png", b"\xff\xfe.png".decode("utf-8", "surrogateescape"), "'\"$(x).png"]
    for name in names:
        picture(f"photos/{name}", 20, 20)
    Path("photos/-bad\n.png").write_bytes(b"")
    told = predict("photos", "--output", "out", code=1)
    assert "photos/-bad .png: an empty file" in told
    assert {path.name for path in Path("out/masks").iterdir()} == set(names)
    assert len(pd.read_parquet("out/areas.parquet")) == 3 * len(names)
    assert "5 of 6 images already done" in predict("photos", "--output", "out", code=1)


def test_what_was_written_is_not_predicted() -> None:
    picture("a.png", 20, 20)
    predict(".")
    predict(".", "--redo")
    assert sorted(path.name for path in Path("predictions").rglob("*.*g")) == ["a.jpg", "a.png"]


def test_refusals() -> None:
    Path("empty").mkdir()
    picture("a.png", 20, 20)
    model, description = saved.load(Path("run/student.safetensors"))
    saved.save(Path("old.safetensors"), model, {"classes": description["classes"]})
    for arguments, complaint in [
        (["run", "empty"], "no images found"),
        (["run", "missing.png"], "no such file or folder"),
        (["run", "missing/*.png"], "no images found"),
        (["run", "a.png", "--window", "64", "--stride", "65"], r"--stride 65: larger than the window \(64\)"),
        (["old.safetensors", "a.png"], "contains no classes or inference settings"),
        (["empty", "a.png"], "no such file; a run writes it at its end"),
        ([".", "a.png"], r"\.: a folder of 1 runs; name one of them, such as run"),
    ]:
        with pytest.raises(UserError, match=complaint):
            CliRunner().invoke(cli.app, ["predict", *arguments], catch_exceptions=False)
    assert not Path("predictions").exists()


def test_a_video_needs_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("clip.mp4").write_bytes(b"video")
    for package in ("av", "cv2"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install av.*a folder of its frames"):
        CliRunner().invoke(cli.app, ["predict", "run", "clip.mp4"], catch_exceptions=False)


def test_frames_of_a_video(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [pixels(32, 48, seed) for seed in range(5)]
    monkeypatch.setitem(sys.modules, "av", stand_in(frames))
    Path("clip.mp4").write_bytes(b"video")
    picture("a.png", 48, 32)
    predict("clip.mp4", "a.png", "--output", "out", "--every", "2")
    assert outputs("masks", ".png") == ["a.png", *(f"clip/{number:06d}.png" for number in (0, 2, 4))]
    expected = predictor()(to_tensor([frames[4]], torch.device("cpu")))[0].numpy()
    assert (read("out/masks/clip/000004.png") == expected).all()
    shapes = counted(monkeypatch)
    predict("clip.mp4", "--output", "out")
    assert sum(shape[0] for shape in shapes) == 2, "the frames that were left out"
    assert pd.read_parquet("out/areas.parquet")["image"].nunique() == 6


def stand_in(frames: list[np.ndarray]) -> ModuleType:
    """PyAV as far as it is used, with these frames in every video."""
    pictures = [SimpleNamespace(to_ndarray=lambda format, frame=frame: frame) for frame in frames]

    class Container:
        def __enter__(self) -> Container:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def decode(self, video: int) -> object:
            return iter(pictures)

    module = ModuleType("av")
    module.open = lambda path: Container()  # type: ignore[attr-defined]
    module.error = SimpleNamespace(FFmpegError=OSError)  # type: ignore[attr-defined]
    return module


def test_the_commands_of_the_page() -> None:
    """docs/predict.md, from top to bottom."""
    for place in ("results/runs/sample/all/dual_teacher/seed0", "."):
        Path(place).mkdir(parents=True, exist_ok=True)
        Path(place, "student.safetensors").write_bytes(Path("run/student.safetensors").read_bytes())
    picture("photos/a.jpg", 40, 40)
    picture("mosaic.tif", 70, 50)
    blocks = re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert [kind for kind, _ in blocks] == ["sh", "python", "sh"]
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, str(PAGE), "exec"), {})  # noqa: S102  # the page's own lines
            continue
        for line in text.strip().splitlines():
            words = shlex.split(line)
            assert words[:4] == ["python", "-m", "dualteacher", "predict"]
            done = CliRunner().invoke(cli.app, words[3:])
            assert done.exit_code == 0, (line, done.output, done.exception)
    assert set(pd.read_parquet("predictions/areas.parquet")["image"]) == {"mosaic"}


def test_help_has_examples() -> None:
    told = CliRunner().invoke(cli.app, ["predict", "--help"]).output
    assert told.count("python -m dualteacher predict ") >= 4 and "areas.parquet" in told


def test_an_output_that_is_a_file_or_a_lost_disk_is_refused(run_folder: Path) -> None:
    picture("photos/a.png", 32, 32)
    Path("file").write_text("mine")
    Path("lost").symlink_to("/mnt/unplugged")
    for output, reason in {
        "file": "file: a file, but an output folder is needed; choose another path",
        "lost": "lost: a link to /mnt/unplugged, which is not there; is that disk mounted?",
    }.items():
        done = CliRunner().invoke(cli.app, ["predict", "run", "photos", "--output", output])
        assert isinstance(done.exception, UserError) and str(done.exception) == reason


def test_links_that_lead_nowhere_among_the_images_fail_alone(run_folder: Path) -> None:
    picture("photos/a.png", 32, 32)
    Path("photos/loop.png").symlink_to("loop.png")
    Path("photos/gone.png").symlink_to("/mnt/unplugged/x.png")
    predict("photos", code=1)
    errors = Path("predictions/errors.csv").read_text()
    assert "photos/loop.png: a link to itself; remove it" in errors
    assert "photos/gone.png: a link to /mnt/unplugged/x.png, which is not there; is that disk mounted?" in errors
    assert Path("predictions/masks/a.png").exists()


def test_an_image_with_the_longest_name_is_predicted(run_folder: Path) -> None:
    name = "ö" * 125 + "n"  # 251 bytes
    picture(f"photos/{name}.png", 32, 32)
    predict("photos", "--output", "out")
    assert outputs("masks", ".png") == [f"{name}.png"] and outputs("overlays", ".jpg") == [f"{name}.jpg"]
