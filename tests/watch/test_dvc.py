"""`dvc exp show` has the row of an experiment while it runs, and no trace of it afterwards."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.workflow import warm

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STAGE = """
stages:
  train:
    cmd: python job.py
    params: [rate]
    outs: [student.txt]
"""
JOB = """
import time
from pathlib import Path
import torch
from dualteacher.training.watch import Watch

watch = Watch("train x", 0, 300, 8, torch.device("cpu"))
for step in watch.over(range(1, 3)):
    watch.epoch({"epoch": 0, "step": 120, "loss": 0.5, "kept": 0.25, "learning_rate": 0.1, "val_miou": 0.75})
    while not Path("go").exists():
        time.sleep(0.05)
Path("student.txt").write_text("trained")
"""


def test_the_row_of_a_running_experiment(tmp_path):
    names = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = os.pathsep.join([str(warm.programs()), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, **names, "PATH": path, "PYTHONPATH": str(ROOT)}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shown() -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(run("dvc", "exp", "show", "--csv"))))

    shutil.copy(ROOT / ".gitignore", tmp_path)
    (tmp_path / "dvc.yaml").write_text(STAGE)
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "params.yaml").write_text("rate: 0.1\n")
    with open(tmp_path / ".gitignore", "a") as file:
        file.write("/student.txt\n/go\n")
    run("git", "init", "--quiet")
    run("dvc", "init", "--quiet")
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--message", "start")
    job = subprocess.Popen(["dvc", "exp", "run", "--quiet", "-S", "rate=0.2"], cwd=tmp_path, env=environment)
    try:
        for _ in range(600):
            if (tmp_path / "dvclive" / "metrics.json").exists() or job.poll() is not None:
                break
            time.sleep(0.1)
        (row,) = [row for row in shown() if row["State"] == "Running"]
        assert (row["step"], row["loss"], row["kept"], row["val_miou"]) == ("120", "0.5", "0.25", "0.75")
        assert float(row["minutes_left"]) >= 0
    finally:
        (tmp_path / "go").touch()
        assert job.wait() == 0
    assert "loss" not in shown()[0]
    assert "dvclive" not in run("git", "status", "--short", "--untracked-files=all", "--ignored")
    run("dvc", "status", "--quiet")
