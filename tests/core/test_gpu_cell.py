"""One cell on a GPU by the command line: trained, killed, resumed, evaluated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dualteacher.system import paths

from .conftest import ROOT, prepare, toy_settings

DEVICE = "cuda"


def start(stage: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dualteacher", stage, "--dataset", "toy", "--partition", "some", "--seed", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*command, *options], env=environment, stderr=subprocess.PIPE, text=True)


def finished(stage: str, *options: str) -> str:
    """The log of a stage that succeeds."""
    with start(stage, *options) as job:
        log = job.communicate(timeout=300)[1]
    assert job.returncode == 0, log
    return log


@pytest.mark.gpu
def test_a_killed_cell_resumes_with_graphs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runtime = {"device": DEVICE, "precision": "auto", "workers": 1, "checkpoint_steps": 4}
    settings = toy_settings(
        runtime=runtime, train={"steps": 120, "epochs": None, "validate_every": 99, "probe_images": 0}
    )
    prepare(settings)
    Path("params.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    finished("warmup")
    cell = paths.Cell("toy", "some", "dual_teacher", 0)
    with start("train", "--method", "dual_teacher") as job:
        while not list(paths.CHECKPOINTS.rglob("*dual_teacher*/*/step*.pt")) and job.poll() is None:
            time.sleep(0.01)
        job.kill()
        log = job.communicate()[1]
    assert not cell.student.exists(), log
    log = finished("train", "--method", "dual_teacher")
    assert "resuming from step" in log
    assert ("steps run as CUDA graphs" in log) == (DEVICE == "cuda") and "without CUDA graphs" not in log
    assert cell.student.exists()
    finished("evaluate", "--method", "dual_teacher")
    assert json.loads(cell.metrics.read_text())["images"] == 4
