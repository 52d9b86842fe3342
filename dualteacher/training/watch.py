"""Progress of a run: a log line every ten seconds and at each validation; values for `status`, DVCLive, TensorBoard.

Reporting never changes results or ends a run: a writer that fails is logged once and dropped. The losses stay on
the device and are read only when a line is due, so steps do not wait for the device.
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

EVERY = 10.0  # seconds between lines
LIVE = Path("dvclive")
LIVE_COLUMNS = ("loss", "kept", "val_miou", "minutes_left")  # more would make `dvc exp show` wide
TENSORBOARD = "DUALTEACHER_TENSORBOARD"  # environment variable: folder for the event files
Numbers = Mapping[str, Any]
Item = TypeVar("Item")


class Rows(Protocol):
    """A writer of scalars by step."""

    def row(self, step: int, numbers: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class Watch:
    """Reports a run from step `first` on. images: passes through any network per step, for the throughput."""

    def __init__(self, name: str, first: int, steps: int, images: int, device: torch.device) -> None:
        self.name, self.first, self.steps, self.images, self.device = name, first, steps, images, device
        self.rows: list[Rows] = []
        self.warned: list[Alarm] = []
        self._began = time.monotonic()
        self._reported = -math.inf
        self._bar: tqdm | None = None

    def over(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches. Opens the writers and the progress bar, and closes them at the end or on an error."""
        with ExitStack() as stack:
            if console.interactive():
                stack.enter_context(logging_redirect_tqdm([logger]))
                bar = tqdm(
                    desc=self.name, initial=self.first, total=self.steps, unit="step", dynamic_ncols=True, leave=False
                )
                self._bar = stack.enter_context(bar)
            for make in (live_rows, tensorboard_rows) if console.is_rank_zero() else ():
                if (rows := _guarded(make, self.name, self.first)) is not None:
                    self.rows.append(rows)
                    stack.callback(_guarded, rows.close)
            heartbeat.beat(step=self.first, steps=self.steps)
            yield from batches

    def step(self, step: int, losses: Callable[[], Numbers], rate: float) -> None:
        """Call after every step. `losses` returns the running epoch's means; called only when a line is due."""
        if self._bar is not None:
            self._bar.update()
        if time.monotonic() - self._reported >= EVERY:
            means = losses()
            if not means:  # the epoch has just ended: `epoch` has logged it
                return
            numbers = self._report(step, {**means, "learning_rate": rate})
            if self._bar is not None:
                self._bar.set_postfix_str(progress_line(numbers), refresh=False)
            else:
                logger.info("%s: step %d/%d, %s", self.name, step, self.steps, progress_line(numbers))

    def epoch(self, row: Numbers) -> None:
        """Call after every epoch. Logs its row of the history if it has a score or a line is due."""
        if math.isnan(row["val_miou"]) and time.monotonic() - self._reported < EVERY:
            return
        numbers = self._report(row["step"], row)
        logger.info(
            "%s: epoch %d, step %d/%d, %s", self.name, row["epoch"], row["step"], self.steps, progress_line(numbers)
        )  # fmt: skip

    def warn(self, alarms: Sequence[Alarm]) -> None:
        """Log each alarm once. `status` shows them from the next report on."""
        for alarm in alarms:
            if alarm not in self.warned:
                self.warned.append(alarm)
                logger.warning("%s: alarm %s at epoch %d: %s", self.name, alarm.name, alarm.epoch, alarm.text)

    def _report(self, step: int, numbers: Numbers) -> dict[str, float]:
        """Update the status file and the writers. Returns the values that are not NaN."""
        self._reported = time.monotonic()
        pace = (step - self.first) / max(self._reported - self._began, 1e-9)  # steps a second, validation included
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


def progress_line(numbers: Mapping[str, float]) -> str:
    """For example "loss 1.204 (supervised 0.9, mix 0.31), kept 0.42, lr 0.0002, 96 images/s, 58 s left, 812 MB"."""
    losses = [f"{key[5:]} {value:.3g}" for key, value in numbers.items() if key.startswith("loss_")]
    parts = [f"loss {numbers.get('loss', math.nan):.4f}" + (f" ({', '.join(losses)})" if len(losses) > 1 else "")]
    for key, name in (("kept", "kept"), ("val_miou", "val mIoU")):
        if key in numbers:
            parts.append(f"{name} {numbers[key]:.4f}")
    parts.append(f"lr {numbers['learning_rate']:.3g}")
    parts.append(f"{numbers['images_per_second']:.3g} images/s")
    if numbers.get("seconds_left"):
        parts.append(f"{console.duration(numbers['seconds_left'])} left")
    parts.append(f"{numbers['memory'] / 2**20:.0f} MB")
    return ", ".join(parts)


def _guarded(call: Callable[..., Any], *arguments: Any, otherwise: Any = None) -> Any:
    """The call's result; on any exception, log a warning and return `otherwise`."""
    try:
        return call(*arguments)
    except Exception as error:
        logger.warning("progress: %s: %s; continuing without", type(error).__name__, " ".join(str(error).split()))
        return otherwise


class LiveRows:
    """DVCLive metrics, shown by `dvc exp show` while an experiment runs.

    Removed at its end: the history has the same values, and the files would add empty columns to later experiments.
    DVC finds them through the dvc.yaml in their folder, so .gitignore must not list that file.
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
        # Not live.end(): in an experiment it runs `git add --force` on the folder.
        shutil.rmtree(LIVE)


def live_rows(name: str, first: int) -> Rows | None:
    """A DVCLive writer if DVC started this process, else None."""
    return LiveRows() if "DVC_STAGE" in os.environ else None


class TensorBoardRows:
    """TensorBoard scalars in `folder`."""

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
    """A TensorBoard writer if DUALTEACHER_TENSORBOARD is set, else None. Needs the package tensorboard."""
    folder = os.environ.get(TENSORBOARD)
    return TensorBoardRows(Path(folder, *name.split()), first) if folder else None
