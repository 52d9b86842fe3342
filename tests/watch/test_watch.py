"""A run says how it goes, on the console, to DVC and to TensorBoard, and is not disturbed by being watched."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml

from dualteacher.stages import train, warmup
from dualteacher.system import heartbeat, paths
from dualteacher.training import watch
from dualteacher.training.watch import LIVE, Watch

CELL = paths.Cell("toy", "some", "dual_teacher", 0)
CPU = torch.device("cpu")


@pytest.fixture
def told(monkeypatch, caplog):
    """Everything is told at every step; the project's messages."""
    monkeypatch.setattr(watch, "EVERY", 0.0)
    monkeypatch.setattr(watch.logger, "propagate", True)
    caplog.set_level(logging.INFO, "dualteacher")
    return caplog


class Writer:
    """Stands in for torch.utils.tensorboard.SummaryWriter."""

    made: list[Writer]

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars, self.closed = folder, purge_step, [], False
        self.texts, self.images = {}, []
        Writer.made.append(self)

    def add_scalar(self, key, value, step):
        self.scalars.append((key, value, step))

    def add_text(self, key, text, step):
        self.texts[key] = text

    def add_image(self, key, picture, step, dataformats):
        assert picture.dtype.name == "uint8" and picture.shape[2] == 3 and dataformats == "HWC"
        self.images.append((key, step))

    def close(self):
        self.closed = True


@pytest.fixture
def tensorboard(monkeypatch):
    Writer.made = []
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setenv("DUALTEACHER_TENSORBOARD", "boards")


def run(settings) -> str:
    """Warm-up and training; the hash of the weights."""
    warmup.run(settings, "toy", "some", 0)
    train.run(settings, "toy", "some", "dual_teacher", 0)
    return hashlib.sha256(CELL.student.read_bytes()).hexdigest()


def test_a_line_tells_step_losses_rate_speed_time_left_and_memory(project, told):
    run(project)
    lines = [record.getMessage() for record in told.records if record.getMessage().startswith("train toy")]
    expected = (
        r"train toy-some-dual_teacher-0: step 3/6, loss \d\.\d{4}"
        r" \(supervised [\d.]+, mix [\d.]+, consistency [\d.]+\),"
        r" kept [\d.]+, lr 0\.000\d+, [\d.]+ images/s, \d+ s left, \d+ MB"
    )
    assert any(re.fullmatch(expected, line) for line in lines), lines
    assert any(
        re.match(r"train toy-some-dual_teacher-0: epoch 1, step 4/6, .*val mIoU 0\.\d{4}", line) for line in lines
    )
    assert " left" not in lines[-1]  # the last step's


def test_watching_changes_no_byte(project, told, tensorboard, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train@toy")
    watched = run(project)
    monkeypatch.delenv("DVC_STAGE")
    monkeypatch.delenv("DUALTEACHER_TENSORBOARD")
    monkeypatch.setattr(watch, "EVERY", 1e9)
    assert run(project) == watched


def test_losses_are_not_read_between_lines():
    """On a GPU a reading waits for the step to end."""
    readings = []

    def losses():
        readings.append(1)
        return {"loss": 1.0}

    watched = Watch("train x", 0, 100, 4, CPU)
    for step, _ in enumerate(watched.over(range(100)), start=1):
        watched.step(step, losses, 0.1)
    assert len(readings) == 1  # after the first step, to say that it goes


def test_short_epochs_are_told_only_with_a_score_or_every_ten_seconds(told, monkeypatch):
    monkeypatch.setattr(watch, "EVERY", 1e9)
    watched = Watch("train x", 0, 100, 4, CPU)
    for step in range(1, 101):
        row = {"epoch": step - 1, "step": step, "loss": 1.0, "learning_rate": 0.1}
        watched.epoch(row | {"val_miou": 0.5 if step % 50 == 0 else float("nan")})
    assert [re.search(r"step \d+/100", record.getMessage())[0] for record in told.records] == [
        "step 1/100",
        "step 50/100",
        "step 100/100",
    ]


def test_time_left_counts_from_where_this_run_began(monkeypatch, told):
    now = [1000.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    watched = Watch("train x", 60, 100, 4, CPU)
    now[0] += 20  # ten steps in twenty seconds: thirty more take a minute
    watched.step(70, lambda: {"loss": 1.0}, 0.1)
    assert "step 70/100, loss 1.0000, lr 0.1, 2 images/s, 60 s left" in told.records[-1].getMessage()


def test_dvc_finds_the_row_of_a_run_it_started_and_nothing_afterwards(project, told, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train@toy")
    seen = []

    def observe(self, row):
        original(self, row)
        metrics = json.loads((LIVE / "metrics.json").read_text())
        seen.append((metrics["step"], set(metrics), yaml.safe_load((LIVE / "dvc.yaml").read_text())))

    original = Watch.epoch
    monkeypatch.setattr(Watch, "epoch", observe)
    run(project)
    steps, columns, declared = zip(*seen, strict=True)
    assert steps == (2, 4, 2, 4, 6)  # warm-up, then training
    assert columns[3] == {"step", "loss", "kept", "val_miou", "minutes_left"}
    assert declared[0] == {"metrics": ["metrics.json"]}
    assert not LIVE.exists()


def test_a_failed_run_leaves_no_row(project, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "warmup@toy")
    seen = []

    def fail(*arguments):
        seen.append(LIVE.exists())
        raise ZeroDivisionError

    monkeypatch.setattr("dualteacher.methods.base.Method.after_step", fail)
    with pytest.raises(ZeroDivisionError):
        warmup.run(project, "toy", "some", 0)
    assert seen == [True] and not LIVE.exists()


def test_without_dvc_there_are_no_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    seen = [LIVE.exists() for _ in Watch("train x", 0, 1, 4, CPU).over(range(1))]
    assert seen == [False]


def test_tensorboard_gets_the_scalars_where_a_folder_is_named(project, told, tensorboard):
    run(project)
    first, second = Writer.made
    assert Path(second.folder) == Path("boards/train/toy-some-dual_teacher-0") and second.purge_step == 0
    assert {"loss", "loss_mix", "learning_rate", "val_miou", "images_per_second"} <= {
        key for key, _, _ in second.scalars
    }
    assert [step for key, _, step in second.scalars if key == "val_miou"] == [4, 6]
    assert first.closed and second.closed
    assert "    train.learning_rate: 0.0" in second.texts["config"]
    assert second.images == [(f"prediction_{image}", step) for step in (4, 6) for image in (0, 1)]


def test_a_watcher_that_fails_is_left_out_and_the_run_goes_on(project, told, tensorboard, monkeypatch):
    def full(self, key, value, step):
        raise OSError("no space\nleft")

    monkeypatch.setattr(Writer, "add_scalar", full)
    run(project)
    warnings = [record.getMessage() for record in told.records if record.levelno == logging.WARNING]
    warnings = [text for text in warnings if "alarm" not in text]  # so short a run has learnt nothing
    warning = "logger TensorBoard: OSError: no space left; continuing without it"
    assert warnings == [warning] * 2  # warm-up and training
    assert CELL.student.exists()


def test_tensorboard_that_is_not_installed_is_said_once(project, told, monkeypatch):
    monkeypatch.setenv("DUALTEACHER_TENSORBOARD", "boards")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    warmup.run(project, "toy", "some", 0)
    (warning,) = [record.getMessage() for record in told.records if record.levelno == logging.WARNING]
    assert "ImportError" in warning or "ModuleNotFoundError" in warning


def test_the_heartbeat_carries_what_status_shows(project, told, monkeypatch):
    log = paths.log("train", "toy", "some", "dual_teacher", 0)
    seen = []

    def observe(self, row):
        original(self, row)
        seen.append(heartbeat.read(log))

    original = Watch.epoch
    warmup.run(project, "toy", "some", 0)
    monkeypatch.setattr(Watch, "epoch", observe)
    with heartbeat.during(log):
        train.run(project, "toy", "some", "dual_teacher", 0)
    assert [said["step"] for said in seen] == [2, 4, 6]
    assert all(said["running"] and said["steps"] == 6 and said["loss"] > 0 for said in seen)
