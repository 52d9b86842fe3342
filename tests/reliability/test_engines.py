"""Under either engine a killed training run, or a killed engine, is repeated by the same command and resumes."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.workflow.conftest import Project

from .conftest import ROOT, content, write_parameters
from .conftest import parameters as toy

pytestmark = pytest.mark.slow
STUDENT = "results/runs/toy/some/dual_teacher/seed0/student.safetensors"
LOG = "logs/train/toy-some-dual_teacher-0.log"
TABLE = "data/toy/partitions/some/seed0.parquet"
CHECKPOINT = ".checkpoints/toy-some-dual_teacher-seed0/step00000000{}.pt: half written"


@pytest.fixture
def project(prepared: Path, finished: Path, tmp_path: Path) -> Project:
    """A copy of the program with the toy project's data and warm-up; its first two trainings will be killed."""
    (tmp_path / "project").mkdir()
    made = Project(tmp_path / "project", stub=False)
    write_parameters(made.root, toy())
    for part in ("own_data", "data", "logs"):
        shutil.copytree(prepared / part, made.root / part, dirs_exist_ok=True)
    warmup = "results/runs/toy/some/warmup"
    shutil.copytree(finished / warmup, made.root / warmup)
    deaths = made.root / "deaths"
    deaths.write_text(f"group train step 3: begin\n{CHECKPOINT.format(6)}")
    inject = Path(__file__).with_name("inject")
    made.environment = {"PYTHONPATH": f"{inject}{os.pathsep}{ROOT}", "DEATHS": str(deaths), "OMP_NUM_THREADS": "1"}
    return made


def check(project: Project, finished: Path) -> None:
    assert (project.root / "deaths").read_text() == ""
    assert "resuming from step 5 of 8" in (project.root / LOG).read_text()
    expected = content(finished, "results/runs/toy/some/dual_teacher")
    for path in ("student.safetensors", "history.parquet"):
        place = str(Path(STUDENT).with_name(path))
        assert content(project.root, "results")[place] == expected[place]


def rename(project: Project) -> None:
    """Give every class another name and colour."""
    raw = toy()
    for entry in raw["datasets"]["toy"]["classes"]:
        entry |= {"name": f"{entry['name']} 2", "color": [1, 2, 3]}
    write_parameters(project.root, raw)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"photo")] ^= 1
    path.write_bytes(data)


def test_snakemake(project: Project, finished: Path) -> None:
    command = ("snakemake", "--quiet", "all", "--retries", "1", STUDENT)
    project(*command, code=-signal.SIGKILL)
    assert list((project.root / ".snakemake/locks").iterdir())  # nobody was left to remove them
    project(*command)  # its training is killed, and repeated by the engine
    check(project, finished)
    rename(project)
    assert "Nothing to be done" in (again := project("snakemake", "--dry-run", STUDENT)).stdout + again.stderr

    table, sound = project.root / TABLE, (project.root / TABLE).read_bytes()
    damage(table)  # Snakemake sees a newer file and would go on with it; the stage that reads it does not
    refused = project("snakemake", STUDENT, "--quiet", "all", code=1)
    assert f"error: {TABLE}: not a partition" in refused.stderr and "remove it" in refused.stderr
    table.unlink()
    project("snakemake", TABLE, "--quiet", "all")
    assert table.read_bytes() == sound


def test_dvc(project: Project, finished: Path) -> None:
    made = ["download@toy", "weights", "prepare@toy", "partition@toy-some-0", "warmup@toy-some-0"]
    project("dvc", "commit", "--force", "--quiet", *made)
    stage = "train@toy-some-dual_teacher-0"
    project("dvc", "repro", stage, code=-signal.SIGKILL)
    assert "failed to reproduce" in project("dvc", "repro", stage, code=255).stderr
    project("dvc", "repro", stage)
    check(project, finished)
    rename(project)
    trained = (project.root / STUDENT).stat().st_mtime_ns
    project("dvc", "repro", "--quiet", stage)
    assert (project.root / STUDENT).stat().st_mtime_ns == trained, "names and colours retrain nothing"
    project("dvc", "status", "--quiet", stage)

    table, sound = project.root / TABLE, (project.root / TABLE).read_bytes()
    damage(table)
    project("dvc", "repro", "--quiet", stage)  # DVC hashes what has changed, and makes it anew
    assert table.read_bytes() == sound
    check(project, finished)
