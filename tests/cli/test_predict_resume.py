"""`predict` again: what is finished stays, what changed is predicted anew, and a stop loses nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from dualteacher import cli
from dualteacher.data import class_table
from dualteacher.data.class_table import ClassInfo
from dualteacher.models import named
from dualteacher.system import files
from dualteacher.system.errors import Interrupted, UserError

from .conftest import counted, picture, predict, save_network


@pytest.fixture(autouse=True)
def photos(run_folder: Path) -> None:
    for number in range(4):
        picture(f"photos/{number}.png", 32, 32, seed=number)


def again(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """How many images the network sees when the command is run."""
    with monkeypatch.context() as patch:
        shapes = counted(patch)
        predict("photos", "--output", "out", *arguments)
    return sum(shape[0] for shape in shapes)


def test_only_what_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    assert again(monkeypatch) == 4
    areas = Path("out/areas.parquet").read_bytes()
    assert again(monkeypatch) == 0
    Path("out/areas.parquet").unlink()
    Path("out/masks/1.png").unlink()
    Path("out/overlays/2.jpg").write_bytes(b"cut")
    assert again(monkeypatch) == 2
    assert Path("out/areas.parquet").read_bytes() == areas
    picture("photos/3.png", 32, 34)
    picture("photos/new.png", 32, 32)
    assert again(monkeypatch) == 2
    assert pd.read_parquet("out/areas.parquet").query("image == '3'")["pixels"].sum() == 32 * 34


def test_other_options_or_weights_are_other_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert again(monkeypatch) == 4
    assert again(monkeypatch, "--batch", "1", "--device", "cpu") == 0, "the outputs do not depend on these"
    assert again(monkeypatch, "--flip") == 8
    assert again(monkeypatch, "--no-overlays") == 4
    assert not list(Path("out/overlays").iterdir()), "what is not made any more does not stay from before"
    assert again(monkeypatch, "--no-overlays", "--redo") == 4
    save_network("run/student.safetensors", seed=1)
    assert again(monkeypatch, "--no-overlays") == 4


def test_new_colours_are_drawn_and_new_names_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert again(monkeypatch, "--no-overlays") == 4
    weights = Path("run/student.safetensors")
    for name, color, predicted in (("sea", (9, 9, 9), 4), ("See", (9, 9, 9), 0)):
        classes = class_table.as_json([ClassInfo(f"{name} {index}", color) for index in range(3)])
        named.write(weights, files.sha256(weights), classes)
        assert again(monkeypatch, "--no-overlays") == predicted, "a name is in no image"
        with Image.open("out/masks/0.png") as mask:
            assert mask.getpalette()[:9] == [9] * 9
        assert {f"{name} 0", f"{name} 1"} < set(pd.read_parquet("out/areas.parquet")["class_name"])


def test_predictions_of_other_weights_are_not_in_the_areas() -> None:
    predict("photos", "--output", "out")
    save_network("run/student.safetensors", seed=1)
    picture("more/m.png", 32, 32)
    told = predict("more", "--output", "out")
    assert "omits 4 images predicted with other weights or options" in told
    assert set(pd.read_parquet("out/areas.parquet")["image"]) == {"m"}


def test_another_files_prediction_is_not_overwritten() -> None:
    predict("photos", "--output", "out")
    picture("other/1.png", 32, 32, seed=9)
    mask = Path("out/masks/1.png").read_bytes()
    with pytest.raises(UserError, match=r"out: 1 is the prediction of .*photos/1.png, not of other/1.png"):
        CliRunner().invoke(cli.app, ["predict", "run", "other", "--output", "out"], catch_exceptions=False)
    assert Path("out/masks/1.png").read_bytes() == mask


def test_a_request_to_stop_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    predict("photos", "--output", "undisturbed", "--batch", "1")
    with monkeypatch.context() as patch:
        shapes = counted(patch, lambda: os.kill(os.getpid(), signal.SIGTERM) if len(shapes) == 2 else None)
        with pytest.raises(Interrupted, match="2 images predicted so far; run the same command again to resume"):
            command = ["predict", "run", "photos", "--output", "out", "--batch", "1"]
            CliRunner().invoke(cli.app, command, catch_exceptions=False)
    assert pd.read_parquet("out/areas.parquet")["image"].nunique() == 2
    assert again(monkeypatch, "--batch", "1") == 2
    for path in Path("undisturbed").rglob("*.*g"):
        assert path.read_bytes() == Path("out", path.relative_to("undisturbed")).read_bytes()
    assert Path("out/areas.parquet").read_bytes() == Path("undisturbed/areas.parquet").read_bytes()


def test_a_stop_in_the_middle_of_a_large_image(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("large.tif", 64, 320)
    command = ["large.tif", "--output", "out", "--large", "0.001", "--window", "64"]
    with monkeypatch.context() as patch:
        shapes = counted(patch, lambda: os.kill(os.getpid(), signal.SIGINT) if len(shapes) == 2 else None)
        with pytest.raises(Interrupted, match="0 images"):
            CliRunner().invoke(cli.app, ["predict", "run", *command], catch_exceptions=False)
    assert len(shapes) == 2 and not [path for path in Path("out").rglob("*.*") if "large" in path.name]
    predict(*command)
    assert Path("out/masks/large.tif").exists()


def test_a_line_that_a_crash_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    again(monkeypatch)
    journal = Path("out/done.jsonl")
    whole = journal.read_text()
    journal.write_text(whole[:-20])
    assert again(monkeypatch) == 1
    assert sorted(journal.read_text().splitlines()) == sorted(whole.splitlines())
    assert pd.read_parquet("out/areas.parquet")["image"].nunique() == 4


def test_two_at_once() -> None:
    Path("out").mkdir()
    held = files.hold(Path("out/.lock"))
    assert held is not None
    with pytest.raises(UserError, match="another `predict` is writing to it"):
        CliRunner().invoke(cli.app, ["predict", "run", "photos", "--output", "out"], catch_exceptions=False)
    os.close(held)
    predict("photos", "--output", "out")
