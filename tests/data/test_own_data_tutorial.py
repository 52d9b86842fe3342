"""docs/own-data.md, word for word: the commands in it lead a new user to a trained network and predictions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.workflow import warm
from tests.workflow.conftest import copy_project

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "own-data.md"


def commands() -> list[str]:
    """The fenced blocks of the page, in order."""
    return re.findall(r"^```sh\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The project's files, with the weights' archive if it is here already."""
    copy_project(tmp_path)
    if (ROOT / "data/weights/raw").is_dir():
        shutil.copytree(ROOT / "data/weights/raw", tmp_path / "data/weights/raw")
    return tmp_path


def run(clone: Path, block: str) -> str:
    """Run a block as a user would paste it; what it prints."""
    bin_folder = str(Path(sys.executable).parent)
    path = os.pathsep.join([str(warm.programs()), bin_folder, os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": ""}
    environment["OMP_NUM_THREADS"] = "1"  # what runs beside the tests would make two threads wait for each other
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=clone, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_tutorial_leads_to_a_trained_network_and_predictions(clone: Path) -> None:
    sample, init, check_data, pipeline, predict, more = commands()
    run(clone, sample)
    assert len(list((clone / "own_data/sample/masks").iterdir())) == 30
    assert "24 images with masks, 200 without" in run(clone, init)
    assert "sample: 0 errors, 0 warnings" in run(clone, check_data)
    run(clone, pipeline)
    assert (clone / "results/report/index.html").is_file() and (clone / "data/sample/contact_sheet.png").is_file()
    (metrics,) = (clone / "results/runs/sample").rglob("metrics.json")
    assert json.loads(metrics.read_text())["miou"] > 0.4, "better than the largest class alone, which gives 0.17"
    run(clone, predict)
    names = [f"photo{number:03d}" for number in range(30, 230)]
    assert sorted(path.stem for path in (clone / "predictions/overlays").iterdir()) == names
    with Image.open(clone / "predictions/masks/photo030.png") as mask:
        assert (mask.mode, mask.size) == ("P", (128, 128)) and set(np.unique(np.asarray(mask))) <= {0, 1, 2}
    assert re.search(r"^download +1$", run(clone, more), re.MULTILINE), "a new photo is noticed"
