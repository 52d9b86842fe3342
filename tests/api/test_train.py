"""`dualteacher.train`: from pictures of any kind to a model with its scores, by the pipeline's own stages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dualteacher
from dualteacher import settings
from dualteacher.api import training
from dualteacher.api.pictures import place
from dualteacher.system import console
from dualteacher.system.errors import UserError
from dualteacher.workflow import engines
from tests.core.conftest import ROOT, scene

SMALL: dict[str, Any] = {
    "model": {"backbone": "mobilenetv2_100", "weights": "none", "head_width": 16},
    "batch": {"labelled": 2, "unlabelled": 2},
    "warmup.steps": 2,
    "train": {"steps": 4},
    "runtime.device": "cpu",
    "runtime.threads": 1,
    "progress": False,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder on a machine without a GPU, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(engines, "gpus", lambda device: 0)
    torch.set_num_threads(1)
    return tmp_path


def scenes(count: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    images, masks = zip(*(scene(rng, (48, 64)) for _ in range(count)), strict=True)
    return list(images), list(masks)


def folders(root: str, labelled: int = 6, without: int = 3) -> Path:
    images, masks = scenes(labelled + without)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        where = Path(root, "images" if number < labelled else "unlabelled")
        where.mkdir(parents=True, exist_ok=True)
        Path(root, "masks").mkdir(exist_ok=True)
        Image.fromarray(image).save(where / f"{number}.png")
        if number < labelled:
            Image.fromarray(mask).save(Path(root, "masks", f"{number}.png"))
    Path(root, "classes.txt").write_text("ground\ndisc\nbar\n")
    return Path(root)


@pytest.mark.slow
def test_folders_to_a_model_that_a_project_keeps(capfd: pytest.CaptureFixture[str]) -> None:
    photos = folders("photos")
    before = (Path.cwd(), torch.random.get_rng_state(), torch.are_deterministic_algorithms_enabled())
    given = {"images": photos / "images", "masks": "photos/masks", "unlabelled": photos / "unlabelled"}
    model = dualteacher.train(**given, folder="project", **SMALL)
    after = (Path.cwd(), torch.random.get_rng_state(), torch.are_deterministic_algorithms_enabled())
    assert before[0] == after[0] and torch.equal(before[1], after[1]) and before[2] == after[2]
    assert torch.get_num_threads() == 1 and not console.logger.handlers
    assert capfd.readouterr().err.count("\n") < 10, "warnings only"
    assert model.path == Path("project/results/runs/own/all/dual_teacher/seed0/student.safetensors").absolute()
    assert [entry.name for entry in model.classes] == ["ground", "disc", "bar"]
    assert model.metrics is not None and 0 <= model.metrics["miou"] <= 1 and model.metrics["method"] == "dual_teacher"
    assert (model.description["unlabelled"], model.description["steps"]) == (3, 4)
    assert model.description["parameters"]["model"]["head_width"] == 16
    assert model.predict(scenes(1, seed=1)[0][0]).mask.shape == (48, 64)
    assert (model.project, Path("project/logs/train").is_dir()) == (Path("project").absolute(), True)

    written = model.path.stat().st_mtime_ns
    again = dualteacher.train(**given, classes=["soil", "coin", "line"], folder="project", **SMALL)
    assert again.path.stat().st_mtime_ns == written, "not trained again"
    assert [entry.name for entry in again.classes] == ["soil", "coin", "line"]


def test_a_folder_in_a_known_layout() -> None:
    folders("photos")
    model = dualteacher.train("photos", method="supervised", seed=3, **SMALL)
    assert model.metrics is not None and (model.metrics["method"], model.metrics["seed"]) == ("supervised", 3)
    assert [entry.name for entry in model.classes] == ["ground", "disc", "bar"]
    folder = model.project
    assert folder is not None and folder.is_dir()
    del model
    assert not folder.exists(), "a temporary project lives as long as its model"


class Pairs(torch.utils.data.Dataset):
    """A Dataset of the caller's own, without __iter__."""

    def __init__(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
        self.images, self.masks = images, masks

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, np.ndarray | None]:
        mask = None if index >= 5 else self.masks[index].astype(np.int64)
        return Image.fromarray(self.images[index]), mask


def placed(folder: str, *given: Any) -> dict[str, bytes]:
    """The files that training would read."""
    place(Path(folder), *given)
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.mark.slow
def test_lists_and_a_torch_dataset_give_the_same_files() -> None:
    images, masks = scenes(8)
    listed = placed("one", images, [*masks[:5], None, None, None], None, ["a", "b", "c"])
    assert placed("two", Pairs(images, masks), None, None, ["a", "b", "c"]) == listed
    assert [sum(name.startswith(kind) for name in listed) for kind in ("images/", "masks/")] == [8, 5]
    model = dualteacher.train(Pairs(images, masks), classes={"c": 2, "a": 0, "b": 1}, **SMALL)
    assert model.description["unlabelled"] == 3 and [entry.name for entry in model.classes] == ["c", "a", "b"]


def test_files_in_a_list() -> None:
    photos = folders("photos", without=0)
    listed = [sorted((photos / kind).iterdir()) for kind in ("images", "masks")]
    model = dualteacher.train(*listed, **SMALL)
    assert model.metrics is not None and model.metrics["method"] == "supervised", "nothing without a mask"


@pytest.mark.slow
def test_in_another_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        model = pool.submit(dualteacher.train, *scenes(5), **SMALL).result()
    assert model.metrics is not None and model.metrics["images"] == 1


def test_palette_masks_and_pictures_with_transparency() -> None:
    images, masks = scenes(5)
    palettes = [Image.fromarray(mask, "L").convert("P") for mask in masks]
    for picture, mask in zip(palettes, masks, strict=True):
        picture.putdata(mask.ravel().tolist())
    pictures = [Image.fromarray(image).convert("RGBA") for image in images]
    assert placed("one", pictures, palettes, None, None) == placed("two", images, masks, None, None)


SCRIPT = """
import sys
print("once", flush=True)
import numpy as np
import dualteacher
from tests.api.test_train import SMALL, scenes
model = dualteacher.train(*scenes(5), **SMALL | {"runtime": {"device": "cpu", "workers": 1}, "seed": 1})
print(model.metrics["seed"], sys.modules["__main__"].__file__ == __file__)
"""


@pytest.mark.slow
def test_a_script_needs_no_guard_for_loader_processes() -> None:
    """They would import the script, and train in it again."""
    Path("script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "script.py"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["once", "1", "True"]), done.stderr


def test_progress_bars_are_drawn_where_asked(capfd: pytest.CaptureFixture[str]) -> None:
    dualteacher.train(*scenes(5), **SMALL | {"progress": True})
    assert "train own-all-supervised-0" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"trian": {"steps": 4}}, "dualteacher.train: unknown key 'trian'"),
        ({"train.stepz": 4}, "unknown key 'train.stepz'; did you mean 'steps'"),
        ({"train": {"steps": -1}}, "dualteacher.train: train.steps = -1"),
        ({"method": "dual"}, "grid.method: 'dual' is not defined in methods"),
        ({"grid.seed": [1, 2]}, "give method= and seed="),
        ({"runtime.processes": 2}, "runtime.processes"),
        ({"method": "dual_teacher"}, "dual_teacher needs unlabelled images"),
        ({"images": "nowhere", "masks": "nowhere"}, "images = nowhere: no such folder"),
        ({"masks": "photos/masks"}, "give two folders or two lists"),
        ({"masks": []}, "5 images, but 0 masks"),
        ({"masks": [np.zeros((48, 64))] * 5}, r"masks[0]: an array of float64 (48, 64)"),
        ({"masks": [np.full((48, 64), -1)] * 5}, "values from -1 to -1"),
        ({"masks": ["none.png"] * 5}, "masks[0] = none.png: no such file"),
        ({"images": [np.zeros((3, 48, 64), np.uint8)] * 5}, "images[0]: an array of uint8 (3, 48, 64)"),
        ({"masks": None}, "a folder or a sequence of (image, mask) pairs"),
        ({"masks": [np.zeros((48, 64), np.uint8)] * 5}, "the masks show only one class, value 0"),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, Any], told: str) -> None:
    images, masks = scenes(5)
    with pytest.raises(UserError) as error:
        dualteacher.train(**{"images": images, "masks": masks} | SMALL | changes)
    assert told in str(error.value) and "\n" not in str(error.value)
    assert not console.logger.handlers


@pytest.fixture
def without_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained once the settings are written."""

    def stop(cell: object) -> None:
        raise UserError("far enough")

    monkeypatch.setattr(training, "_run_stages", stop)


@pytest.mark.usefixtures("without_stages")
def test_a_process_stays_on_the_gpu_that_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []
    for used in (False, True):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda used=used: used)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        with pytest.raises(UserError, match="far enough"):
            dualteacher.train(*scenes(5), folder=f"used {used}")
        devices.append(settings.load(f"used {used}/params.yaml").runtime.device)
    assert devices == ["auto", "cuda:1"]


@pytest.mark.usefixtures("without_stages")
def test_edited_settings_are_not_replaced() -> None:
    for _ in range(2):  # what it wrote itself is
        with pytest.raises(UserError, match="far enough"):
            dualteacher.train(*scenes(5), folder="project", **SMALL)
    params = Path("project/params.yaml")
    params.write_text(params.read_text().replace("head_width: 16", "head_width: 24"))
    kept = params.read_bytes()
    with pytest.raises(UserError, match=r"params\.yaml: has been edited"):
        dualteacher.train(*scenes(5), folder="project", **SMALL)
    assert params.read_bytes() == kept
