"""An empty project for `init`: the default preset is used, on a machine without a GPU. Import `project` to use it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dualteacher.workflow import engines, presets

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    shutil.copytree(ROOT / "presets", root / "presets")
    (root / "params.yaml").write_text(presets.text("bluemarble", root / "presets"), encoding="utf-8")
    monkeypatch.chdir(root)
    monkeypatch.setattr(engines, "gpus", lambda device: 0)
    return root
