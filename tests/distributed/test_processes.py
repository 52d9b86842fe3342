"""Several real processes give one truth: the same losses, weights and scores as one process."""

from __future__ import annotations

import os
import socket
import subprocess
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
from tests.core.conftest import ROOT, toy_settings, without_norm, write_pack
from tests.workflow import warm

pytestmark = pytest.mark.slow
CELL = ("--dataset", "toy", "--partition", "some", "--seed", "0")
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


def write_parameters(sections: dict) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(toy_settings(**sections).model_dump(mode="json")))


@pytest.fixture
def launch(spawner):
    """Runs a stage in two processes with the variables that torchrun sets; what they said."""

    def start(stage: str, sections: dict, method: str = "dual_teacher", code: int = 0, **second: object) -> str:
        """second: of the second process alone, as in a request to the spawner."""
        write_parameters(sections)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = [{"environment": group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}} for rank in (0, 1)]
        without = {"without_norm": True} if second.pop("without_norm", False) else {}
        words = [stage, *CELL, "--method", method]
        return spawner(Path.cwd(), words, code=code, each=[ranks[0], ranks[1] | second], **without)

    return start


def start_stage(**sections: dict) -> subprocess.Popen[str]:
    """The train stage by the command line, which starts its processes itself."""
    write_parameters(sections)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [warm.programs() / "python", "-m", "dualteacher", "train", *CELL, "--method", "dual_teacher"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def history(method: str = "dual_teacher") -> pd.DataFrame:
    return pd.read_parquet(paths.Cell("toy", "some", method, 0).history)


def remove_run(method: str = "dual_teacher") -> None:
    cell = paths.Cell("toy", "some", method, 0)
    for path in (cell.student, cell.history, cell.cost):
        path.unlink()


def train(sections: dict, method: str = "dual_teacher") -> pd.DataFrame:
    """Train in this process; the history. Leaves no run."""
    training.run(toy_settings(**sections), "toy", "some", method, 0)
    made = history(method)
    remove_run(method)
    return made


def check_equal(one: pd.DataFrame, other: pd.DataFrame) -> None:
    for column in ("loss", "loss_supervised", "loss_mix", "val_miou", "distance_waiting"):
        np.testing.assert_allclose(one[column], other[column], rtol=2e-5, atol=1e-6, err_msg=column)


def test_two_processes_are_one_process_with_two_passes_or_one(project, launch, monkeypatch):
    without_norm(monkeypatch)
    sections = {"model": QUIET, "batch": FOUR}
    warmup.run(toy_settings(**sections), "toy", "some", 0)
    full = train(sections)
    passes = train({"model": QUIET, "batch": FOUR | {"accumulate": 2}})
    launch("train", sections, without_norm=True)
    check_equal(history(), full)
    check_equal(history(), passes)


def test_synchronised_batch_normalisation_and_shared_evaluation(project, launch):
    # supervised, since a pseudo-label on the edge of the threshold turns rounding into another loss
    sections = {"model": QUIET | {"sync_norm": True}, "batch": FOUR | {"crop": 64}, "optimizer": SGD}
    sections["train"] = {"learning_rate": 0.00002}
    warmup.run(toy_settings(**sections), "toy", "some", 0)
    training.run(toy_settings(**sections), "toy", "some", "supervised", 0)
    evaluating.run(toy_settings(**sections), "toy", "some", "supervised", 0)
    cell = paths.Cell("toy", "some", "supervised", 0)
    alone = {path: path.read_bytes() for path in (cell.metrics, cell.confusion)}
    for path in alone:
        path.unlink()
    launch("evaluate", sections, "supervised")
    assert {path: path.read_bytes() for path in alone} == alone
    full = history("supervised")
    remove_run("supervised")
    launch("train", sections, "supervised")
    check_equal(history("supervised"), full)


def test_a_killed_process_ends_the_others_and_the_run_goes_on(project, launch):
    """With `runtime.processes`, stopped by a signal to the stage, and to its end: the bytes of an undisturbed run."""
    sections = {"batch": FOUR, "runtime": {"checkpoint_steps": 1, "processes": 2}}
    sections["train"] = {"steps": 14, "epochs": None, "validate_every": 99}
    warmup.run(toy_settings(**sections | {"runtime": {"processes": 1}}), "toy", "some", 0)
    launch("train", sections)
    cell = paths.Cell("toy", "some", "dual_teacher", 0)
    undisturbed, expected = history(), cell.student.read_bytes()
    remove_run()
    words = launch("train", sections, code=2, die="train step 3: begin")
    assert "error: another process of this run has ended" in words and "Traceback" not in words
    assert not cell.student.exists()
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
