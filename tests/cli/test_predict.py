"""`predict`: masks and overlays for every image that can be read, a line and exit code 1 for those that cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dualteacher import cli, settings
from dualteacher.errors import UserError
from dualteacher.models import saved
from dualteacher.models.segmenter import build

COLORS = [[10, 20, 30], [200, 0, 0], [0, 0, 90]]


@pytest.fixture(autouse=True)
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untrained network of three classes as a run leaves it, in the current folder."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    loaded = settings.load(Path(__file__).parents[2] / "presets/tiny.yaml")
    description = {
        "classes": [{"index": i, "name": str(i), "color": color} for i, color in enumerate(COLORS)],
        "inference": loaded.inference.model_dump(mode="json"),
    }
    saved.save(Path("run/student.safetensors"), build(loaded.model, 3, None, drop_path=0.0), description)
    return Path("run")


def picture(path: str, *size: int, **options: object) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 80).convert("RGB").save(path, **options)  # type: ignore[arg-type]


def predict(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli.app, ["predict", "run", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_every_image_below_a_folder() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    picture("photos/a.jpg", 50, 40, exif=turned)
    picture("photos/deep er/b.tif", 33, 21)
    picture("photos/c.jpg", 20, 20)
    picture("photos/c.png", 20, 20)
    picture("single.webp", 20, 30)
    Path("photos/notes.txt").write_text("no image")
    predict("photos", "single.webp", "--output", "out", "--device", "cpu")
    names = ["a.png", "c.jpg.png", "c.png.png", "deep er/b.png", "single.png"]
    assert sorted(path.relative_to("out/masks").as_posix() for path in Path("out/masks").rglob("*.png")) == names
    assert sorted(path.stem for path in Path("out/overlays").rglob("*.jpg")) == ["a", "b", "c.jpg", "c.png", "single"]
    with Image.open("out/masks/a.png") as mask, Image.open("out/overlays/a.jpg") as overlay:
        assert mask.size == overlay.size == (40, 50), "upright"
        assert mask.mode == "P" and set(np.unique(np.asarray(mask))) <= {0, 1, 2}
        assert (mask.getpalette() or [])[:9] == [value for color in COLORS for value in color]


def test_what_cannot_be_read_is_listed_and_the_rest_is_predicted() -> None:
    picture("photos/good.png", 20, 20)
    Path("photos/bad.png").write_bytes(b"nothing")
    picture("photos/cut.jpg", 64, 64)
    Path("photos/cut.jpg").write_bytes(Path("photos/cut.jpg").read_bytes()[:-200])
    told = predict("photos", code=1)
    assert "cannot be read: photos/bad.png: not an image" in told and "photos/cut.jpg: damaged" in told
    assert "1 of 3 images predicted" in told
    assert [path.name for path in Path("predictions/masks").iterdir()] == ["good.png"]


def test_nothing_to_predict_and_names_that_clash() -> None:
    Path("empty").mkdir()
    picture("one/a.png", 9, 9)
    picture("two/a.png", 9, 9)
    for arguments, complaint in [
        (["empty"], "no images found"),
        (["missing.png"], "no such file or folder"),
        (["one", "two"], "predict them into different folders"),
    ]:
        with pytest.raises(UserError, match=complaint):
            CliRunner().invoke(cli.app, ["predict", "run", *arguments], catch_exceptions=False)
    assert not Path("predictions").exists()
