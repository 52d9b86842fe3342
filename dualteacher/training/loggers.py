"""Loggers: a run's curves, sample predictions and settings for TensorBoard, W&B, MLflow and DVCLive (docs/loggers.md).

watch.py calls them, on rank 0 only. Their packages are optional and slow to import, so methods import them.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dualteacher.system import files, paths

TENSORBOARD = "DUALTEACHER_TENSORBOARD"  # environment variable: folder for the event files
PROJECT = "dualteacher"  # W&B's project and MLflow's experiment, unless their variables name another


@dataclass(frozen=True)
class Run:
    """What a logger is told at its start. first: the step of the checkpoint that the run resumes from, or 0."""

    name: str  # for example "train bluemarble-eighth-dual_teacher-0"
    first: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)  # the settings that the result depends on

    def folder(self, parent: Path) -> Path:
        return parent.joinpath(*self.name.split())

    def id_file(self, service: str) -> Path:
        return self.folder(paths.LOGS / service).with_suffix(".id")

    def known_id(self, service: str) -> str | None:
        """The service's id of the run to append to; None if this run starts from the beginning."""
        path = self.id_file(service)
        return path.read_text(encoding="utf-8").strip() if self.first and path.exists() else None

    def flat_config(self) -> list[tuple[str, str]]:
        """The settings as dotted keys and values."""
        return list(_flat("", self.config))


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, str(value)


class Logger:
    """Writes one run. After an exception only `end` is called."""

    def start(self, run: Run) -> None: ...
    def row(self, step: int, values: Mapping[str, float]) -> None: ...
    def image(self, name: str, step: int, picture: np.ndarray) -> None: ...  # (H, W, 3) uint8
    def end(self, finished: bool) -> None: ...


class TensorBoard(Logger):
    """Event files, one folder per run. A resumed run discards the steps after its checkpoint."""

    def start(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder(Path(os.environ.get(TENSORBOARD) or paths.LOGS / "tensorboard"))
        self.writer = SummaryWriter(str(folder), purge_step=run.first and run.first + 1)  # the first step it discards
        if run.first == 0:
            text = "".join(f"    {key}: {value}\n" for key, value in run.flat_config())  # indented: code in Markdown
            self.writer.add_text("config", text, 0)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            if key not in ("step", "epoch"):
                self.writer.add_scalar(key, value, step)

    def image(self, name: str, step: int, picture: np.ndarray) -> None:
        self.writer.add_image(name, picture, step, dataformats="HWC")

    def end(self, finished: bool) -> None:
        self.writer.close()


class WandB(Logger):
    """Weights & Biases: online with a login, else offline files for `wandb sync`. WANDB_… variables take precedence."""

    def start(self, run: Run) -> None:
        import wandb

        self.wandb = wandb
        mode: Any = os.environ.get("WANDB_MODE")
        if mode is None:
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        folder = Path(os.environ.get("WANDB_DIR") or paths.LOGS)
        folder.mkdir(parents=True, exist_ok=True)
        known = run.known_id("wandb")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=run.name, dir=str(folder), mode=mode,
            id=known or uuid.uuid4().hex[:12], resume="allow" if known else None, config=dict(run.config),
            settings=wandb.Settings(console="off", silent=True),
        )  # fmt: skip
        files.write_text(run.id_file("wandb"), self.run.id)
        # W&B drops a row whose own step was logged before, as after a resume; so the x axis is a column.
        self.run.define_metric("*", step_metric="step")

    def row(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({**values, "step": step})

    def image(self, name: str, step: int, picture: np.ndarray) -> None:
        self.run.log({name: self.wandb.Image(picture), "step": step})

    def end(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)


class MLflow(Logger):
    """MLflow: the server of MLFLOW_TRACKING_URI, else a SQLite file in logs/mlflow."""

    def start(self, run: Run) -> None:
        # An unreachable server must not hold up training for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        local = (paths.LOGS / "mlflow").absolute()
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri:
            self.client = MlflowClient(tracking_uri=uri)
        else:  # one at a time: parallel jobs would create the same tables and leave a broken file
            local.mkdir(parents=True, exist_ok=True)
            while (lock := files.hold(local / ".lock")) is None:
                time.sleep(0.1)
            try:
                self.client = MlflowClient(tracking_uri=f"sqlite:///{local / 'mlflow.db'}")
            finally:
                os.close(lock)
        if known := run.known_id("mlflow"):
            self.id = known
            self.client.update_run(self.id, status="RUNNING")
            return
        place = None if uri else (local / "artifacts").as_uri()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), place)
        self.id = self.client.create_run(experiment, run_name=run.name).info.run_id
        files.write_text(run.id_file("mlflow"), self.id)
        params = [Param(key, value[:500]) for key, value in run.flat_config()]  # servers may refuse longer values
        for begin in range(0, len(params), 100):  # or more at once
            self.client.log_batch(self.id, params=params[begin : begin + 100])

    def _experiment(self, name: str, place: str | None) -> str:
        """The experiment's id; created if missing, unless another job does so first."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        with suppress(MlflowException):
            return found.experiment_id if found else self.client.create_experiment(name, artifact_location=place)
        return self.client.get_experiment_by_name(name).experiment_id

    def row(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def image(self, name: str, step: int, picture: np.ndarray) -> None:
        self.client.log_image(self.id, picture, key=name, step=step)

    def end(self, finished: bool) -> None:
        self.client.set_terminated(self.id, status="FINISHED" if finished else "FAILED")


class DVCLive(Logger):
    """DVCLive's files in logs/dvclive, one folder per run. Live.end() is not called: it may `git add` the folder."""

    def start(self, run: Run) -> None:
        from dvclive import Live

        folder = run.folder(paths.LOGS / "dvclive")
        self.live = Live(str(folder), resume=run.first > 0, dvcyaml=None, save_dvc_exp=False, report=None)
        self.live.log_params(dict(run.config))

    def row(self, step: int, values: Mapping[str, float]) -> None:
        self.live.step = step
        for key, value in values.items():
            if key != "step":
                self.live.log_metric(key, value)
        self.live.make_summary()

    def image(self, name: str, step: int, picture: np.ndarray) -> None:
        self.live.step = step
        self.live.log_image(f"{name}.png", picture)


BY_NAME: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow, "dvclive": DVCLive}
