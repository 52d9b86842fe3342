"""Several real processes give one truth: the same losses, weights and scores as one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dualteacher.data import partition
from dualteacher.data.pack import Pack
from dualteacher.models import weights
from dualteacher.stages import evaluate as evaluating
from dualteacher.stages import train as training
from dualteacher.stages import warmup
from dualteacher.system import paths
from tests.core.conftest import toy_settings, without_norm, write_pack

pytestmark = pytest.mark.slow
DRIVER = Path(__file__).parent / "driver.py"
SGD = {"name": "sgd", "ramp_steps": 0}  # Adam's first steps turn rounding into signs
QUIET = {"dropout": 0.0, "drop_path": 0.0}
FOUR = {"labelled": 4, "unlabelled": 4, "groups": 2, "accumulate": 1}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = paths.Dataset("toy")
    write_pack(dataset.train, 14, seed=1, unmasked=2)
    write_pack(dataset.val, 5, seed=2)  # an odd number: shares differ
    pack = Pack(dataset.train)
    partition.write(paths.Partition("toy", "some", 0).table, pack.ids, pack.ids[:5])
    weights.prepare_backbone(toy_settings().model, Path("nothing"))
    return tmp_path


def launch(stage: str, processes: int, **spec) -> subprocess.CompletedProcess[str]:
    """A stage in several processes."""
    Path("spec.json").write_text(json.dumps({"stage": stage, "sections": {}, **spec}))
    run = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *run, str(DRIVER), "spec.json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def start_stage(**sections: dict) -> subprocess.Popen[str]:
    """The train stage by the command line, which starts its processes itself."""
    Path("params.yaml").write_text(yaml.safe_dump(toy_settings(**sections).model_dump(mode="json")))
    options = ["--dataset", "toy", "--partition", "some", "--method", "dual_teacher", "--seed", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(DRIVER.parents[2])}
    command = [sys.executable, "-m", "dualteacher", "train", *options]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def train(processes: int = 1, sections: dict | None = None, method: str = "dual_teacher", **spec) -> pd.DataFrame:
    """Train in several processes, or in this one; the history."""
    cell = paths.Cell("toy", "some", method, 0)
    for path in (cell.student, cell.history, cell.cost):
        path.unlink(missing_ok=True)
    if processes == 1:
        training.run(toy_settings(**sections or {}), "toy", "some", method, 0)
    else:
        done = launch("train", processes, sections=sections or {}, method=method, **spec)
        assert done.returncode == 0, done.stderr[-3000:]
    return pd.read_parquet(cell.history)


def check_equal(one: pd.DataFrame, other: pd.DataFrame) -> None:
    for column in ("loss", "loss_supervised", "loss_mix", "val_miou", "distance_waiting"):
        np.testing.assert_allclose(one[column], other[column], rtol=2e-5, atol=1e-6, err_msg=column)


def test_two_processes_are_one_process_with_two_passes_or_one(project, monkeypatch):
    without_norm(monkeypatch)
    sections = {"model": QUIET, "batch": FOUR}
    warmup.run(toy_settings(**sections), "toy", "some", 0)
    full = train(1, sections)
    two = train(2, sections, without_norm=True)
    passes = train(1, {"model": QUIET, "batch": FOUR | {"accumulate": 2}})
    check_equal(two, full)
    check_equal(two, passes)


def test_synchronised_batch_normalisation_and_shared_evaluation(project):
    # supervised, since a pseudo-label on the edge of the threshold turns rounding into another loss
    sections = {"model": QUIET | {"sync_norm": True}, "batch": FOUR | {"crop": 64}, "optimizer": SGD}
    sections["train"] = {"learning_rate": 0.00002}
    spec = {"sections": sections, "method": "supervised"}
    warmup.run(toy_settings(**sections), "toy", "some", 0)
    full = train(1, **spec)
    evaluating.run(toy_settings(**sections), "toy", "some", "supervised", 0)
    cell = paths.Cell("toy", "some", "supervised", 0)
    alone = {path: path.read_bytes() for path in (cell.metrics, cell.confusion)}
    for path in alone:
        path.unlink()
    assert launch("evaluate", 2, **spec).returncode == 0
    assert {path: path.read_bytes() for path in alone} == alone
    both = train(2, **spec)
    check_equal(both, full)


def test_a_killed_process_ends_the_others_and_the_run_goes_on(project):
    """With `runtime.processes`, stopped by a signal to the stage, and to its end: the bytes of torchrun by hand."""
    sections = {"batch": FOUR, "runtime": {"checkpoint_steps": 1, "processes": 2}}
    sections["train"] = {"steps": 14, "epochs": None, "validate_every": 99}
    warmup.run(toy_settings(**sections | {"runtime": {"processes": 1}}), "toy", "some", 0)
    undisturbed = train(2, sections=sections)
    cell = paths.Cell("toy", "some", "dual_teacher", 0)
    expected = cell.student.read_bytes()
    cell.student.unlink()
    done = launch("train", 2, sections=sections, die_at=3, die_rank=1)
    assert done.returncode != 0 and not cell.student.exists()
    assert checkpoints() == ["step000000002.pt", "step000000003.pt"]

    with start_stage(**sections) as job:
        while max(checkpoints()) == "step000000003.pt" and job.poll() is None:
            time.sleep(0.05)
        job.terminate()
        words = job.communicate(timeout=120)[1]
    assert job.returncode == 75, words
    assert words.count("stopped: train toy-some-dual_teacher-0 at step") == 1
    assert "Traceback" not in words and "SIGTERM" not in words
    assert not cell.student.exists()

    with start_stage(**sections) as job:
        words = job.communicate(timeout=300)[1]
    assert job.returncode == 0, words
    pd.testing.assert_frame_equal(pd.read_parquet(cell.history), undisturbed)
    assert cell.student.read_bytes() == expected


def checkpoints() -> list[str]:
    return sorted(path.name for path in paths.CHECKPOINTS.rglob("step*.pt"))


def test_images_that_cannot_be_shared_are_refused_in_one_line(project):
    warmup.run(toy_settings(), "toy", "some", 0)
    with start_stage(runtime={"processes": 2}, batch={"labelled": 4}) as job:
        words = job.communicate(timeout=300)[1]
    assert job.returncode == 2
    assert "error: batch.groups = 1 cannot be split over 2 processes" in words
    assert "Traceback" not in words
