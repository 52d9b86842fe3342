"""The pipeline through a real Slurm, one node on loopback; a job that its time limit ended goes on where it was."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from dualteacher.system import heartbeat, paths
from dualteacher.workflow import presets
from tests.workflow.conftest import ROOT, Project

SCRIPT = Path(__file__).with_name("cluster.sh")
SEARCHED = os.environ["PATH"] + ":/usr/sbin:/sbin"
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=SEARCHED)]
CELL = paths.Cell("bluemarble", "eighth", "dual_teacher", 0)
TRAIN = ("train", "--dataset", CELL.dataset, "--partition", CELL.partition, "--method", CELL.method, "--seed", "0")
STEPS = 20
TARGETS = (str(CELL.metrics), str(paths.Cell("bluemarble", "eighth", "supervised", 0).student))
ENDS = {  # of each rule's jobs
    "prepare": ["COMPLETED"],
    "partition": ["COMPLETED"],
    "warmup": ["COMPLETED"],
    "train": ["COMPLETED", "COMPLETED", "TIMEOUT"],
    "evaluate": ["COMPLETED"],
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: `tests/slurm/cluster.sh install` as root"),
]


@pytest.fixture
def cluster(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A cluster that runs while the test does: the environment of its clients."""
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SCRIPT, "start", folder], check=True)
    try:
        places = (folder / "bin", Path(sys.executable).parent, os.environ["PATH"])
        yield {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": os.pathsep.join(map(str, places))}
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)


@pytest.fixture
def tiny(tmp_path, cluster) -> Project:
    """A copy with the tiny preset, its training long enough to be caught; the archives if the project has them."""
    made = Project(tmp_path, stub=False)
    made.warm = False  # Slurm signals the processes below its own
    presets.use("tiny", made.root / "presets", made.root / "params.yaml")
    made.edit("grid.method", ["supervised", "dual_teacher"])
    made.edit("train.steps", STEPS)
    made.edit("runtime.checkpoint_steps", 1)
    for raw in (ROOT / paths.DATA).glob("*/raw"):
        ignore = shutil.ignore_patterns("manifest.json")
        shutil.copytree(raw, made.root / raw.relative_to(ROOT), ignore=ignore, dirs_exist_ok=True)
    # What a user would adapt: this cluster has no accounting, and its jobs take seconds.
    profile = made.root / "profiles" / "slurm" / "config.yaml"
    settings = yaml.safe_load(profile.read_text())
    settings |= {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 1}
    profile.write_text(yaml.safe_dump(settings))
    made.environment = dict(cluster)
    return made


def soon(ready: Callable[[], object], running: Future[object], seconds: float = 300) -> None:
    """Wait until `ready`; the error of what is running, or an AssertionError, if that ends first or takes too long."""
    end = time.monotonic() + seconds
    while not ready():
        if running.done():
            raise AssertionError(running.result())
        assert time.monotonic() < end, "too slow"
        time.sleep(0.01)


def jobs(made: Project, pattern: str) -> list[tuple[str, str]]:
    """(number, state) of the cluster's jobs, past ones too, whose comment (rule and wildcards) matches."""
    lines = made("squeue", "-t", "all", "--noheader", "--format=%i %T %k").stdout.splitlines()
    parts = (line.split(maxsplit=2) for line in lines)
    return [(number, state) for number, state, comment in parts if re.match(pattern, comment)]


def test_the_pipeline_runs_and_a_job_at_its_time_limit_goes_on(tiny):
    log = tiny.root / paths.log(TRAIN[0], *TRAIN[2::2])
    checkpoints = tiny.root / paths.CHECKPOINTS / "-".join(CELL.folder.parts[2:])
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(tiny, "snakemake", "--workflow-profile", "profiles/slurm", *TARGETS)
        soon(lambda: list(checkpoints.glob("*/step*.pt")), running)
        # Held for as long as nothing is done about it, the job runs into its limit, which is brought nearer.
        process = json.loads(heartbeat.place(log).read_text())["pid"]
        os.kill(process, signal.SIGSTOP)
        try:
            soon(lambda: len(jobs(tiny, "rule_train")) == 2, running)  # side by side
            ((job, state),) = jobs(tiny, f"rule_train_wildcards_.*{CELL.method}")
            assert state == "RUNNING"
            tiny("scontrol", "update", f"JobId={job}", "EndTime=now+1seconds")
            told = running.result()
        finally:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    assert f"SLURM-job '{job}' failed, SLURM status is: 'TIMEOUT'" in told.stderr
    assert "JobState=TIMEOUT" in tiny("scontrol", "show", "job", job).stdout
    assert "resuming from step" in log.read_text()
    states = {rule: sorted(state for _, state in jobs(tiny, f"rule_{rule}_")) for rule in ENDS}
    assert states == ENDS
    assert "Nothing to be done" in "".join((done := tiny("snakemake", "--dry-run", *TARGETS)).stdout + done.stderr)

    # The same cell, undisturbed and by hand.
    files = [tiny.root / path for path in (CELL.student, CELL.history)]
    before = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    tiny("python", "-m", "dualteacher", *TRAIN)
    assert [path.read_bytes() for path in files] == before
