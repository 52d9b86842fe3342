"""The built wheel trains and predicts, and the engines run its projects, where there is no clone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dualteacher.workflow import stamps
from tests.docs.pages import ROOT
from tests.workflow.conftest import copy_project

pytestmark = pytest.mark.slow

PROGRAM = """
import numpy as np
import dualteacher

assert CLONE not in dualteacher.__file__, dualteacher.__file__
random = np.random.default_rng(0)
images = [random.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(5)]
masks = [(image[..., 0] > 128).astype(int) for image in images]
model = dualteacher.train(
    images, masks, model={"backbone": "mobilenetv2_100", "weights": "none", "head_width": 16},
    batch={"labelled": 2}, warmup={"steps": 1}, train={"steps": 1}, runtime={"device": "cpu"}, progress=False,
)
assert model.predict(images[0]).mask.shape == (40, 40) and "miou" in model.metrics
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of programs that find the wheel, in a folder of its own, and no clone.

    The wheel is built from the source distribution, as the release's is.
    """
    folder = tmp_path_factory.mktemp("wheel")
    copy_project(folder / "source")
    build = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=folder / "source", check=True, stdout=subprocess.DEVNULL)
    (archive,) = (folder / "source/dist").iterdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", folder / "site", archive], check=True)
    path = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    return {**os.environ, "PYTHONPATH": str(folder / "site"), "HOME": str(folder), "PATH": path}


def run(environment: dict[str, str], folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_the_wheel_works_outside_a_clone(environment: dict[str, str], tmp_path: Path) -> None:
    run(environment, tmp_path, sys.executable, "-c", PROGRAM.replace("CLONE", repr(str(ROOT))))


def test_a_project_of_the_wheel_runs_without_a_clone(environment: dict[str, str], tmp_path: Path) -> None:
    run(environment, tmp_path, sys.executable, "-m", "dualteacher", "new", "project", "--preset", "tiny")
    project = tmp_path / "project"
    found = run(environment, project, sys.executable, "-c", "import dualteacher; print(dualteacher.__file__)")
    assert environment["PYTHONPATH"] in found
    for stamp, text in stamps.texts().items():  # the wheel has every source that the clone has
        assert (project / stamp).read_text() == text
    planned = run(environment, project, "snakemake", "--dry-run", "--quiet", "rules")
    assert "train" in planned and "report" in planned
    run(environment, project, "git", "init", "--quiet")
    assert "train" in run(environment, project, "dvc", "stage", "list")
    run(environment, project, sys.executable, "-m", "dualteacher", "check-params")
