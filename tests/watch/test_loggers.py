"""`runtime.loggers`: curves, settings and sample predictions, for every kind whose package is installed."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from dualteacher.stages import train, warmup
from dualteacher.system import paths
from dualteacher.system.errors import Interrupted, UserError
from dualteacher.training import loop, watch
from dualteacher.training.loggers import Run
from dualteacher.training.watch import Loggers
from tests.core.conftest import toy_settings
from tests.watch.test_watch import CELL, run

NAME = "train toy-some-dual_teacher-0"
RUN = "train/toy-some-dual_teacher-0"
CONFIG = {"train": {"learning_rate": 0.5, "steps": 6}, "method": {"kind": "x", "mixes": ["a", "b"]}}


@pytest.fixture(autouse=True)
def told(monkeypatch, caplog):
    """Log at every step; no settings of the tester's own."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_")) or name in ("DVC_STAGE", "DUALTEACHER_TENSORBOARD"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", "none")
    monkeypatch.setattr(watch, "EVERY", 0.0)
    monkeypatch.setattr(watch.logger, "propagate", True)
    caplog.set_level(logging.WARNING, "dualteacher")
    return caplog


def logged(first: int, steps: int, *names: str) -> Loggers:
    """Log the steps after `first` as a run does."""
    loggers = Loggers(names, CONFIG, "toy", 3)
    loggers.start(NAME, first)
    for step in range(first + 1, steps + 1):
        loggers.row(step, {"loss": 1 / step, "step": float(step)})
    loggers.predictions(steps, [np.array([[0, 1], [2, 2]])])
    loggers.end(True)
    return loggers


def warnings(caplog) -> list[str]:
    texts = [record.getMessage() for record in caplog.records if record.name == "dualteacher"]
    return [text for text in texts if "alarm" not in text]  # so short a run has learnt nothing


def with_loggers(project, *names: str):
    return project.model_copy(update={"runtime": project.runtime.model_copy(update={"loggers": list(names)})})


def test_tensorboard_files_of_a_resumed_run_hold_each_step_once(tmp_path, monkeypatch, told):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(tmp_path)
    logged(0, 4, "tensorboard")
    logged(2, 6, "tensorboard")
    events = accumulator.EventAccumulator(f"logs/tensorboard/{RUN}")
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Images("prediction_0")] == [6]
    (config,) = events.Tensors("config/text_summary")
    assert b"train.learning_rate: 0.5" in config.tensor_proto.string_val[0]
    assert not warnings(told)


def test_mlflow_appends_a_resumed_run_and_starts_a_new_one_otherwise(tmp_path, monkeypatch, told):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    logged(0, 4, "mlflow")
    logged(4, 6, "mlflow")
    logged(0, 1, "mlflow")
    assert not warnings(told)
    client = mlflow.MlflowClient(tracking_uri="sqlite:///logs/mlflow/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "dualteacher"]
    again, first = client.search_runs([experiment.experiment_id])  # the newest first
    assert first.info.run_name == NAME and first.info.status == "FINISHED"
    assert first.data.params["train.learning_rate"] == "0.5" and first.data.params["method.mixes"] == "['a', 'b']"
    assert [metric.step for metric in client.get_metric_history(first.info.run_id, "loss")] == [1, 2, 3, 4, 5, 6]
    assert [metric.step for metric in client.get_metric_history(again.info.run_id, "loss")] == [1]
    assert len(list(Path("logs/mlflow/artifacts", first.info.run_id).rglob("*.png"))) == 2


def test_wandb_without_a_login_writes_files_to_synchronise_later(tmp_path, monkeypatch, told):
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    logged(0, 4, "wandb")
    name = Path(f"logs/wandb/{RUN}.id").read_text()
    logged(4, 6, "wandb")
    assert not warnings(told)
    (first, resumed) = sorted(Path("logs/wandb").glob("offline-run-*"))
    assert first.name.endswith(name) and resumed.name.endswith(name), "one run at W&B"
    written = (first / f"run-{name}.wandb").read_bytes()
    assert b"learning_rate" in written and NAME.encode() in written and b"prediction_0" in written


PARALLEL = """
from dualteacher.training.watch import Loggers

loggers = Loggers(["mlflow"])
loggers.start("train run", 0)
loggers.row(1, {"loss": 1.0})
loggers.end(True)
assert loggers.running
"""


@pytest.mark.slow
def test_jobs_that_start_together_share_mlflows_new_database(tmp_path):
    """MLflow's own migrations fail when two processes run them."""
    pytest.importorskip("mlflow")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    jobs = [subprocess.Popen([sys.executable, "-c", PARALLEL], cwd=tmp_path, env=environment) for _ in range(2)]
    assert [job.wait() for job in jobs] == [0, 0]


class FakeWandB(types.ModuleType):
    """Stands in for the package: what a run asks of it, and whether somebody has logged in."""

    def __init__(self, has_login: bool) -> None:
        super().__init__("wandb")
        self.has_login, self.started, self.rows, self.exit_codes = has_login, [], [], []

    def login(self, prompt, verify):
        assert not prompt and not verify, "no question, no network"
        return self.has_login

    def init(self, id, **options):
        self.started.append(options | {"id": id})
        return types.SimpleNamespace(
            id=id, define_metric=lambda *names, **options: None, log=self.rows.append,
            finish=lambda exit_code: self.exit_codes.append(exit_code),
        )  # fmt: skip

    def Settings(self, **options):
        return options

    Image = staticmethod(np.shape)


@pytest.mark.parametrize(
    ("has_login", "variable", "mode"),
    [(False, None, "offline"), (True, None, "online"), (True, "offline", "offline"), (False, "online", "online")],
)
def test_wandb_is_online_with_a_login_unless_its_variable_says_otherwise(
    tmp_path, monkeypatch, told, has_login, variable, mode
):
    monkeypatch.chdir(tmp_path)
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    fake = FakeWandB(has_login)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    logged(0, 2, "wandb")
    logged(2, 3, "wandb")
    logged(0, 1, "wandb")
    assert not warnings(told)
    first, resumed, again = fake.started
    assert {one["mode"] for one in fake.started} == {mode}
    assert first["name"] == NAME and first["project"] == "dualteacher" and first["config"] == CONFIG
    assert first["resume"] is None and resumed["resume"] == "allow" and again["resume"] is None
    assert first["id"] == resumed["id"] != again["id"]
    assert fake.rows[:3] == [{"loss": 1.0, "step": 1}, {"loss": 0.5, "step": 2}, {"prediction_0": (2, 2, 3), "step": 2}]
    assert fake.exit_codes == [0, 0, 0]


def test_dvclive_keeps_its_files_in_the_logs(tmp_path, monkeypatch, told):
    monkeypatch.chdir(tmp_path)
    logged(0, 4, "dvclive")
    logged(4, 6, "dvclive")
    folder = Path("logs/dvclive", RUN)
    rows = (folder / "plots/metrics/loss.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert json.loads((folder / "metrics.json").read_text())["step"] == 6
    assert "learning_rate: 0.5" in (folder / "params.yaml").read_text()
    assert (folder / "plots/images/prediction_0.png").exists()
    assert not Path("dvclive").exists() and not warnings(told)


@pytest.mark.slow
def test_loggers_change_no_byte_and_are_ended_by_an_interruption(project, told, monkeypatch):
    """The settings of the result do not include them either, so the finished run is up to date."""
    plain = run(project)
    trained = CELL.student.stat().st_mtime_ns
    ended = []
    monkeypatch.setattr(watch.Loggers, "end", lambda self, finished: ended.append(finished))
    run(with_loggers(project, "dvclive"))
    assert CELL.student.stat().st_mtime_ns == trained and not ended
    CELL.student.unlink()
    assert run(with_loggers(project, "dvclive")) == plain
    assert ended == [True] and Path("logs/dvclive", RUN, "metrics.json").exists()
    CELL.student.unlink()
    monkeypatch.setattr(loop, "finish_epoch", lambda *arguments: (_ for _ in ()).throw(Interrupted("stop")))
    with pytest.raises(Interrupted):
        train.run(with_loggers(project, "dvclive"), "toy", "some", "dual_teacher", 0)
    assert ended == [True, False]


def test_a_missing_package_is_one_line_before_training(project, monkeypatch):
    monkeypatch.setattr(watch.importlib.util, "find_spec", lambda name: None if name == "wandb" else name)
    with pytest.raises(UserError, match=r"runtime.loggers: wandb is not installed; .*'dualteacher\[wandb\]'"):
        warmup.run(with_loggers(project, "tensorboard", "wandb"), "toy", "some", 0)
    assert not paths.Cell("toy", "some", "warmup", 0).student.exists()


def test_an_unknown_logger_is_named():
    with pytest.raises(UserError, match=r"runtime.loggers.0 = 'comet'"):
        toy_settings(runtime={"loggers": ["comet"]})


def test_only_rank_zero_logs(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert Loggers(["dvclive"]).running == []


def test_a_logger_that_fails_is_dropped_with_one_warning_and_the_others_go_on(tmp_path, monkeypatch, told):
    monkeypatch.chdir(tmp_path)
    seen = []

    class Broken(watch.Logger):
        def row(self, step, values):
            seen.append(step)
            raise ConnectionError("no route\nto host")

        def end(self, finished):
            raise ConnectionError("no route to host")

    class Fine(watch.Logger):
        def row(self, step, values):
            seen.append(values["loss"])

    monkeypatch.setattr(watch, "BY_NAME", {"mlflow": Broken, "wandb": Fine})
    logged(0, 2, "mlflow", "wandb")
    assert seen == [1, 1.0, 0.5]
    assert warnings(told) == ["logger Broken: ConnectionError: no route to host; continuing without it"]


def test_a_run_knows_its_id_only_where_it_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started, resumed = Run(NAME), Run(NAME, first=3)
    assert resumed.known_id("wandb") is None
    started.id_file("wandb").parent.mkdir(parents=True)
    started.id_file("wandb").write_text("abc")
    assert resumed.known_id("wandb") == "abc" and started.known_id("wandb") is None
    assert started.folder(Path("logs")) == Path("logs", RUN)
