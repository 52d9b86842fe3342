"""Watching a run: a line every ten seconds and at each validation, rows for `status`, DVCLive and TensorBoard.

Nothing here changes a number or can end a run: a part that fails says so once and is left out. The losses
lie on the device; they are read only when something is told, so that steps need not wait.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dualteacher.machine.device import peak_memory
from dualteacher.system import console, heartbeat
from dualteacher.system.console import logger
from dualteacher.training.alarms import Alarm

EVERY = 10.0  # seconds between two lines
LIVE = Path("dvclive")
LIVE_COLUMNS = ("loss", "kept", "val_miou", "minutes_left")  # more would make `dvc exp show` wide
TENSORBOARD = "DUALTEACHER_TENSORBOARD"  # names a folder
Numbers = Mapping[str, Any]
Item = TypeVar("Item")


class Rows(Protocol):
    """Something that keeps rows of numbers by step."""

    def row(self, step: int, numbers: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class Watch:
    """Tells how a run goes from step `first` on; `images` are those that a step shows to any network."""

    def __init__(self, name: str, first: int, steps: int, images: int, device: torch.device) -> None:
        self.name, self.first, self.steps, self.images, self.device = name, first, steps, images, device
        self.rows: list[Rows] = []
        self.warned: list[Alarm] = []
        self._began = time.monotonic()
        self._told = -math.inf
        self._bar: tqdm | None = None

    def over(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Pass the batches through; what is open here closes when they end or their user fails."""
        with ExitStack() as stack:
            if console.interactive():
                stack.enter_context(logging_redirect_tqdm([logger]))
                bar = tqdm(
                    desc=self.name, initial=self.first, total=self.steps, unit="step", dynamic_ncols=True, leave=False
                )
                self._bar = stack.enter_context(bar)
            for make in (live_rows, tensorboard_rows) if console.leads() else ():
                if (rows := _guarded(make, self.name, self.first)) is not None:
                    self.rows.append(rows)
                    stack.callback(_guarded, rows.close)
            heartbeat.beat(step=self.first, steps=self.steps)
            yield from batches

    def step(self, step: int, losses: Callable[[], Numbers], rate: float) -> None:
        """After every step; `losses` gives the means of the running epoch and is called when a line is due."""
        if self._bar is not None:
            self._bar.update()
        if time.monotonic() - self._told >= EVERY:
            means = losses()
            if not means:  # the epoch has just ended, and its own line has been told
                return
            numbers = self._tell(step, {**means, "learning_rate": rate})
            if self._bar is not None:
                self._bar.set_postfix_str(words(numbers), refresh=False)
            else:
                logger.info("%s: step %d/%d, %s", self.name, step, self.steps, words(numbers))

    def epoch(self, row: Numbers) -> None:
        """After every epoch; `row` is its row of the history, told if it has a score or a line is due."""
        if math.isnan(row["val_miou"]) and time.monotonic() - self._told < EVERY:
            return
        numbers = self._tell(row["step"], row)
        logger.info(
            "%s: epoch %d, step %d/%d, %s", self.name, row["epoch"], row["step"], self.steps, words(numbers)
        )  # fmt: skip

    def warn(self, alarms: Sequence[Alarm]) -> None:
        """Log each alarm once; `status` shows them with the next line."""
        for alarm in alarms:
            if alarm not in self.warned:
                self.warned.append(alarm)
                logger.warning("%s: alarm %s at epoch %d: %s", self.name, alarm.name, alarm.epoch, alarm.text)

    def _tell(self, step: int, numbers: Numbers) -> dict[str, float]:
        """Tell all but the console, and give back what there is to say."""
        self._told = time.monotonic()
        pace = (step - self.first) / max(self._told - self._began, 1e-9)  # steps a second, validation included
        left = (self.steps - step) / pace if pace else math.nan
        known = {key: float(value) for key, value in numbers.items() if isinstance(value, int | float)}
        known |= {"images_per_second": pace * self.images, "seconds_left": left, "memory": peak_memory(self.device)}
        known = {key: value for key, value in known.items() if not math.isnan(value)}
        alarms = {"alarms": [alarm.name for alarm in self.warned]} if self.warned else {}
        heartbeat.beat(**(known | {"step": step, "steps": self.steps} | alarms))
        for rows in list(self.rows):
            if _guarded(rows.row, step, known | {"minutes_left": left / 60}, otherwise=rows) is rows:
                self.rows.remove(rows)
        return known


def words(numbers: Mapping[str, float]) -> str:
    """«loss 1.204 (supervised 0.9, mix 0.31), kept 0.42, lr 0.0002, 96 images/s, 58 s left, 812 MB»."""
    parts = [f"{key[5:]} {value:.3g}" for key, value in numbers.items() if key.startswith("loss_")]
    said = [f"loss {numbers.get('loss', math.nan):.4f}" + (f" ({', '.join(parts)})" if len(parts) > 1 else "")]
    for key, name in (("kept", "kept"), ("val_miou", "val mIoU")):
        if key in numbers:
            said.append(f"{name} {numbers[key]:.4f}")
    said.append(f"lr {numbers['learning_rate']:.3g}")
    said.append(f"{numbers['images_per_second']:.3g} images/s")
    if numbers.get("seconds_left"):
        said.append(f"{console.duration(numbers['seconds_left'])} left")
    said.append(f"{numbers['memory'] / 2**20:.0f} MB")
    return ", ".join(said)


def _guarded(call: Callable[..., Any], *arguments: Any, otherwise: Any = None) -> Any:
    """What the call returns; if it fails, a warning and `otherwise`."""
    try:
        return call(*arguments)
    except Exception as error:
        logger.warning("watching: %s: %s; going on without", type(error).__name__, " ".join(str(error).split()))
        return otherwise


class LiveRows:
    """DVCLive's rows, which `dvc exp show` shows of a running experiment; gone when the run ends.

    The history has them all anyway, and left behind they would be columns of zeros and dashes for ever. DVC
    reads the numbers because of the dvc.yaml beside them, so .gitignore must not hide that file.
    """

    def __init__(self) -> None:
        from dvclive import Live

        self.live = Live(str(LIVE), dvcyaml=None, save_dvc_exp=False, report=None)
        (LIVE / "dvc.yaml").write_text("metrics:\n- metrics.json\n", encoding="utf-8")

    def row(self, step: int, numbers: Mapping[str, float]) -> None:
        self.live.step = step
        for key in LIVE_COLUMNS:
            if key in numbers:
                self.live.log_metric(key, round(numbers[key], 4))
        self.live.next_step()

    def close(self) -> None:
        # Not live.end(): in an experiment that would `git add --force` the folder.
        shutil.rmtree(LIVE)


def live_rows(name: str, first: int) -> Rows | None:
    """Only in a job that DVC started."""
    return LiveRows() if "DVC_STAGE" in os.environ else None


class TensorBoardRows:
    """Scalars for TensorBoard below `folder`."""

    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=first)

    def row(self, step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            if key not in ("step", "epoch"):
                self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


def tensorboard_rows(name: str, first: int) -> Rows | None:
    """Where DUALTEACHER_TENSORBOARD names a folder; the package tensorboard must be installed."""
    folder = os.environ.get(TENSORBOARD)
    return TensorBoardRows(Path(folder, *name.split()), first) if folder else None
