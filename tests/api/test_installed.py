"""The built wheel trains and predicts where there is no clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

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


@pytest.mark.slow
def test_the_wheel_works_outside_a_clone(tmp_path: Path) -> None:
    for name in ("dualteacher", "pyproject.toml", "README.md", "LICENSE", "presets"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / "source" / name, **({"symlinks": True} if (ROOT / name).is_dir() else {}))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "install", *options, "--target", tmp_path / "site", tmp_path / "source"], check=True)
    (tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path)}
    program = PROGRAM.replace("CLONE", repr(str(ROOT)))
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path / "elsewhere", env=environment, check=True)
