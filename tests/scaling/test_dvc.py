"""What DVC shares: a remote's files are used as they are, and queued experiments give the rows of runs by hand."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from dualteacher.system import paths
from dualteacher.workflow import presets
from tests.workflow.conftest import ROOT, Project

pytestmark = pytest.mark.slow

CELL = paths.Cell("bluemarble", "eighth", "supervised", 0)
OPTIONS = ("--dataset", CELL.dataset, "--partition", CELL.partition, "--method", CELL.method, "--seed", str(CELL.seed))
RATES = {"rate-1": 0.0001, "rate-2": 0.02}


class Clone(Project):
    """A project's git clone."""

    def __init__(self, origin: Project, root: Path) -> None:
        self.root, self.environment, self.warm = root, {}, True
        origin("git", "clone", "--quiet", str(origin.root), str(root))


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Project:
    """A copy, its stages the stub's, whose one cell DVC has run; committed, and pushed to a folder as the remote."""
    made = Project(tmp_path_factory.mktemp("origin"), stub=True)
    made.edit("grid.method", [CELL.method])
    made.edit("grid.seed", [0])
    made("dvc", "remote", "add", "--default", "shared", str(tmp_path_factory.mktemp("remote")))
    run_and_commit(made)
    made("dvc", "push", "--quiet")
    return made


def run_and_commit(made: Project, *stages: str) -> None:
    made("dvc", "repro", "--quiet", *stages)
    made("git", "add", "--all")
    made("git", "commit", "--quiet", "--message", "run")


@pytest.fixture(scope="module")
def clone(origin, tmp_path_factory) -> Clone:
    """A fresh clone that has pulled what the remote holds."""
    made = Clone(origin, tmp_path_factory.mktemp("clone") / "project")
    made("dvc", "pull", "--quiet")
    return made


def outputs(made: Project) -> dict[str, str]:
    """Hash by path of the results' files."""
    found = (path for path in (made.root / "results").rglob("*") if path.is_file())
    return {str(path.relative_to(made.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def rows(made: Project) -> dict[str, Any]:
    """The metrics of each experiment as `dvc exp show` has them, by its name."""
    table = json.loads(made("dvc", "exp", "show", "--json").stdout)
    made_of = [experiment for commit in table for experiment in commit.get("experiments") or []]
    return {each["name"]: each["revs"][0]["data"]["metrics"][str(paths.SUMMARY)]["data"] for each in made_of}


def recorded(made: Project, experiment: str) -> dict[str, str]:
    """Hash by path of an experiment's outputs, from its dvc.lock."""
    (reference,) = made("git", "for-each-ref", f"refs/exps/*/*/{experiment}", "--format=%(refname)").stdout.split()
    lock = yaml.safe_load(made("git", "show", f"{reference}:dvc.lock").stdout)
    return {out["path"]: out.get("md5", "") for stage in lock["stages"].values() for out in stage.get("outs", [])}


def wait_for_queue(made: Project) -> str:
    """Until no experiment waits or runs; what `dvc queue status` says then."""
    end = time.monotonic() + 300
    while True:
        ask = time.monotonic() + 30  # DVC's start takes seconds, Git's none: git tells when an experiment is done
        while time.monotonic() < ask:
            done = made("git", "for-each-ref", "refs/exps", "--format=%(refname:lstrip=-1)").stdout.split()
            if set(done) >= RATES.keys():
                break
            time.sleep(0.2)
        told = made("dvc", "queue", "status").stdout
        if "Queued" not in told and "Running" not in told:
            return told
        assert time.monotonic() < end, told


def test_a_clone_pulls_the_results_and_recomputes_nothing(origin, clone):
    assert outputs(clone) == outputs(origin)
    assert str(CELL.student) in outputs(clone)
    assert clone("dvc", "status").stdout == "Data and pipelines are up to date.\n"
    told = clone("dvc", "repro").stdout
    assert "Running stage" not in told
    assert told.count("didn't change, skipping") >= 8
    assert not (clone.root / paths.LOGS).exists(), "a stage that runs has a log"


def test_queued_experiments_with_two_workers_give_the_rows_of_runs_by_hand(origin, clone):
    rates = ",".join(map(str, RATES.values()))
    origin("dvc", "exp", "run", "--queue", "--name", "rate", "--set-param", f"train.learning_rate={rates}")
    origin("dvc", "queue", "start", "--jobs", "2")
    told = wait_for_queue(origin)
    assert told.count("Success") == len(RATES), told

    queued = rows(origin)
    assert queued.keys() == RATES.keys() and queued["rate-1"] != queued["rate-2"]
    name = "rate-2"
    clone.edit("train.learning_rate", RATES[name])
    for command in (["train", *OPTIONS], ["evaluate", *OPTIONS], ["report"]):
        clone("python", "-m", "dualteacher", *command)
    assert queued[name] == json.loads((clone.root / paths.SUMMARY).read_text())
    files = (CELL.student, CELL.history, CELL.metrics, CELL.confusion)
    hashes = {str(path): hashlib.md5((clone.root / path).read_bytes()).hexdigest() for path in files}
    assert hashes.items() <= recorded(origin, name).items()


def test_a_copy_that_prepares_anew_borrows_the_archives(tmp_path):
    made = Project(tmp_path, stub=False)
    presets.use("tiny", made.root / "presets", made.root / "params.yaml")
    for raw in (ROOT / paths.DATA).glob("*/raw"):
        ignore = shutil.ignore_patterns("manifest.json")
        shutil.copytree(raw, made.root / raw.relative_to(ROOT), ignore=ignore, dirs_exist_ok=True)
    run_and_commit(made, "prepare@bluemarble")
    made.touch_up("dualteacher/stages/prepare.py")
    made.environment = {"PIP_NO_INDEX": "1"}
    told = made("dvc", "exp", "run", "--temp", "--name", "prepared", "prepare@bluemarble").stdout
    assert "Running stage 'prepare@bluemarble'" in told
    assert "Running stage 'download@bluemarble'" not in told


def test_own_images_go_along_with_the_option_of_the_docs(origin):
    made = origin
    photo = made.root / "own_data" / "photos" / "one.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"a photo")
    run_and_commit(made)
    changed = ("--set-param", "train.learning_rate=0.5")
    told = made("dvc", "exp", "run", "--temp", "--copy-paths", "own_data/photos", *changed).stdout
    assert "Stage 'download@bluemarble' didn't change, skipping" in told
    assert "Running stage 'train@bluemarble-eighth-supervised-0'" in told
