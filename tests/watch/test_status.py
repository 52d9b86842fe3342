"""`status` tells where each run stands, whatever became of its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from dualteacher.commands import status
from dualteacher.stages import evaluate, train, warmup
from dualteacher.system import console, heartbeat, paths
from dualteacher.system.errors import Interrupted, UserError

CELL = paths.Cell("toy", "some", "supervised", 0)
WARMUP, TRAIN = paths.log("warmup", "toy", "some", 0), paths.log("train", "toy", "some", "supervised", 0)
EVALUATE = paths.log("evaluate", "toy", "some", "supervised", 0)


def write(log, **said):
    heartbeat.place(log).parent.mkdir(parents=True, exist_ok=True)
    known = {"pid": os.getpid(), "host": heartbeat.socket.gethostname(), "at": time.time()}
    heartbeat.place(log).write_text(json.dumps(known | said))


def told(cell=CELL):
    state = status.look(cell)
    return state.state, state.words


def dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_cell_from_waiting_to_done(project):
    assert told(CELL.warmup) == ("waiting", "")
    assert told() == ("waiting", "for its warm-up")
    warmup.run(project, "toy", "some", 0)
    assert told(CELL.warmup) == ("done", "")
    assert told() == ("waiting", "")
    train.run(project, "toy", "some", "supervised", 0)
    assert told() == ("waiting", "trained, not yet evaluated")
    evaluate.run(project, "toy", "some", "supervised", 0)
    miou = json.loads(CELL.metrics.read_text())["miou"]
    state, words = told()
    assert state == "done" and words.split(", ")[0] == f"mIoU {miou:.4f}"
    write(TRAIN, step=10, steps=300, loss=0.5, seconds_left=200.0)  # trained anew while the old scores are there
    assert told() == ("running", "train: step 10/300, loss 0.500, 3 min left")
    write(TRAIN, pid=dead_process(), at=time.time() - 3600)  # killed long before these files were made
    assert told()[0] == "done"


def test_without_data_a_cell_waits_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told() == ("waiting", "for its data")


def test_a_job_whose_process_is_gone_has_failed(project):
    write(TRAIN, pid=dead_process(), step=10, steps=300)
    assert told() == ("failed", "train: killed, or the machine went down; run the same command again to resume")


def test_a_job_on_another_machine_runs_while_it_gives_signs(project):
    write(TRAIN, host="elsewhere", pid=1, step=10, steps=300)
    assert told() == ("running", "train: step 10/300")
    write(TRAIN, host="elsewhere", pid=1, step=10, steps=300, at=time.time() - heartbeat.SILENCE - 1)
    assert told()[0] == "failed"


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"pid": 1}'])
def test_a_damaged_file_says_nothing(project, damage):
    write(TRAIN)
    heartbeat.place(TRAIN).write_text(damage)
    assert told()[0] == "waiting"


def test_an_error_is_in_the_log_and_in_the_table(project, capsys):
    console.start(EVALUATE)
    with pytest.raises(UserError), heartbeat.during(EVALUATE):
        console.logger.info("so far so good")
        raise UserError("params.yaml: train.steps = -1: wrong")
    assert EVALUATE.read_text().endswith("so far so good\nerror: params.yaml: train.steps = -1: wrong\n")
    status.run(project)
    lines = capsys.readouterr().out.splitlines()
    (row,) = [i for i, line in enumerate(lines) if " failed " in line]
    assert lines[row].endswith("failed   evaluate: error: params.yaml: train.steps = -1: wrong")
    assert lines[row + 1] == f"    {EVALUATE} ends with:"
    assert lines[row + 3] == "    | error: params.yaml: train.steps = -1: wrong"
    assert lines[-1] == "4 runs: 1 failed, 3 waiting"


@pytest.mark.parametrize("error", [Interrupted("saved at step 12"), KeyboardInterrupt()], ids=["signal", "Ctrl-C"])
def test_a_job_that_was_asked_to_stop_has_not_failed(project, capsys, error):
    with pytest.raises(type(error)), heartbeat.during(TRAIN):
        raise error
    state, words = told()
    assert state == "stopped" and words.startswith(("train: saved at step 12", "train: interrupted; run the same"))
    status.run(project)
    said = capsys.readouterr().out
    assert "ends with" not in said and said.endswith("4 runs: 1 stopped, 3 waiting\n")


def test_a_defect_leaves_its_traceback_in_the_log(project):
    console.start(TRAIN)
    with pytest.raises(ZeroDivisionError), heartbeat.during(TRAIN):
        print(1 / 0)
    assert "Traceback" in TRAIN.read_text() and "print(1 / 0)" in TRAIN.read_text()
    assert told() == ("failed", "train: ZeroDivisionError: division by zero")


def test_a_job_that_ends_well_leaves_nothing(project):
    with heartbeat.during(TRAIN):
        assert heartbeat.read(TRAIN)["running"]
        assert told() == ("running", "train")
    assert not list(TRAIN.parent.iterdir())
    heartbeat.beat(step=1)  # outside a job nobody is told
    assert not list(TRAIN.parent.iterdir())


def test_the_command_prints_a_line_for_every_run_and_warm_up(project, capsys):
    status.run(project)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["dataset", "partition", "method", "seed", "state"]
    assert [line.split()[2] for line in lines[1:-1]] == ["warmup", "supervised", "mean_teacher", "dual_teacher"]
    assert lines[-1] == "4 runs: 4 waiting"
