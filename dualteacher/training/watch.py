"""Progress of a run: a log line every ten seconds and at each validation; values for `status` and the loggers.

Reporting never changes results or ends a run: a logger that fails is dropped with one warning. The losses stay on the
device and are read only when a line is due, so steps do not wait for the device.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dualteacher.machine.device import peak_memory
from dualteacher.system import console, heartbeat
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError
from dualteacher.training.alarms import Alarm
from dualteacher.training.history import SNAPSHOTS
from dualteacher.training.loggers import BY_NAME, TENSORBOARD, Logger, Run, TensorBoard

EVERY = 10.0  # seconds between lines
LIVE = Path("dvclive")
LIVE_COLUMNS = ("loss", "kept", "val_miou", "minutes_left")  # more would make `dvc exp show` wide
Numbers = Mapping[str, Any]
Item = TypeVar("Item")


class LiveRows(Logger):
    """DVCLive metrics, shown by `dvc exp show` while an experiment runs.

    Removed at its end: the history has the same values, and the files would add empty columns to later experiments.
    DVC finds them through the dvc.yaml in their folder, so .gitignore must not list that file.
    """

    def start(self, run: Run) -> None:
        from dvclive import Live

        self.live = Live(str(LIVE), dvcyaml=None, save_dvc_exp=False, report=None)
        (LIVE / "dvc.yaml").write_text("metrics:\n- metrics.json\n", encoding="utf-8")

    def row(self, step: int, values: Mapping[str, float]) -> None:
        self.live.step = step
        for key in LIVE_COLUMNS:
            if key in values:
                self.live.log_metric(key, round(values[key], 4))
        self.live.next_step()

    def end(self, finished: bool) -> None:
        shutil.rmtree(LIVE)


def check_installed(names: Iterable[str]) -> None:
    """UserError if a logger's package is not installed. The packages are called like the loggers."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"runtime.loggers: {name} is not installed; run `pip install 'dualteacher[{name}]'`,"
                " or take it out of the list"
            )


class Loggers:
    """The loggers of a run: those of `runtime.loggers`, and those that DVC or the environment ask for."""

    def __init__(
        self,
        names: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        dataset: str = "",
        num_classes: int = 0,
    ) -> None:
        self.config, self.dataset, self.num_classes = config or {}, dataset, num_classes
        kinds = dict.fromkeys(BY_NAME[name] for name in names)
        if os.environ.get(TENSORBOARD):
            kinds[TensorBoard] = None
        if "DVC_STAGE" in os.environ:  # DVC started this process
            kinds[LiveRows] = None
        self.running = [kind() for kind in kinds] if console.is_rank_zero() else []

    @cached_property
    def colours(self) -> np.ndarray:
        """The classes' colours (C, 3) uint8, if the dataset's table is there by now."""
        from dualteacher.data import class_table  # no result depends on it

        try:
            classes = class_table.read(self.dataset)
        except UserError:
            classes = class_table.unnamed(self.num_classes)
        return np.array([info.color for info in classes], np.uint8)

    def start(self, name: str, first: int) -> None:
        self._each("start", Run(name, first, self.config))

    def row(self, step: int, values: Mapping[str, float]) -> None:
        self._each("row", step, values)

    def predictions(self, step: int, maps: Iterable[np.ndarray]) -> None:
        """Log class maps (H, W) as pictures in the classes' colours."""
        for number, labels in enumerate(maps if self.running else ()):
            self._each("image", f"prediction_{number}", step, self.colours[labels])

    def end(self, finished: bool) -> None:
        self._each("end", finished)

    def _each(self, method: str, *arguments: Any) -> None:
        """Call a method of every logger. One that raises is dropped with a warning."""
        for one in list(self.running):
            try:
                getattr(one, method)(*arguments)
            except Exception as error:
                self.running.remove(one)
                what = f"{type(error).__name__}: {' '.join(str(error).split())}"
                logger.warning("logger %s: %s; continuing without it", type(one).__name__, what)
                with suppress(Exception):
                    one.end(False)


class Watch:
    """Reports a run from step `first` on. images: passes through any network per step, for the throughput."""

    def __init__(
        self, name: str, first: int, steps: int, images: int, device: torch.device, loggers: Loggers | None = None
    ) -> None:
        self.name, self.first, self.steps, self.images, self.device = name, first, steps, images, device
        self.loggers = Loggers() if loggers is None else loggers
        self.warned: list[Alarm] = []
        self._began = time.monotonic()
        self._reported = -math.inf
        self._bar: tqdm | None = None

    def over(self, batches: Iterable[Item]) -> Generator[Item]:
        """Yield the batches. Starts the loggers and the progress bar, and ends them with the iterator."""
        with ExitStack() as stack:
            if console.interactive():
                stack.enter_context(logging_redirect_tqdm([logger]))
                bar = tqdm(
                    desc=self.name, initial=self.first, total=self.steps, unit="step", dynamic_ncols=True, leave=False
                )
                self._bar = stack.enter_context(bar)
            self.loggers.start(self.name, self.first)
            finished = False
            stack.callback(lambda: self.loggers.end(finished))
            heartbeat.beat(step=self.first, steps=self.steps)
            yield from batches
            finished = True

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
        self.loggers.predictions(row["step"], (labels.numpy() for labels in row.get(SNAPSHOTS, ())))
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
        """Update the status file and the loggers. Returns the values that are not NaN."""
        self._reported = time.monotonic()
        pace = (step - self.first) / max(self._reported - self._began, 1e-9)  # steps a second, validation included
        left = (self.steps - step) / pace if pace else math.nan
        known = {key: float(value) for key, value in numbers.items() if isinstance(value, int | float)}
        known |= {"images_per_second": pace * self.images, "seconds_left": left, "memory": peak_memory(self.device)}
        known = {key: value for key, value in known.items() if not math.isnan(value)}
        alarms = {"alarms": [alarm.name for alarm in self.warned]} if self.warned else {}
        heartbeat.beat(**(known | {"step": step, "steps": self.steps} | alarms))
        self.loggers.row(step, known if math.isnan(left) else known | {"minutes_left": left / 60})
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
