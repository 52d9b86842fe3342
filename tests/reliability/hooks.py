"""Named places in a run at which it can be killed: before and after every step, in every prediction, in every write."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dualteacher.data import loader
from dualteacher.inference.predictor import Predictor
from dualteacher.system import files
from dualteacher.training import loop

_where, _predictions = "", 0


def install(request: dict[str, Any], group: bool = False, before: Callable[[], None] = lambda: None) -> None:
    """Kill this process, or its client's process group too, at the place `die`; write those passed into `places`."""
    if "attempts" in request:
        note_attempts(request["attempts"])
    if "probe" in request:
        with suppress(OSError):
            socket.create_connection((request["probe"], 80))
    if request.get("without_norm"):
        import pytest

        from tests.core.conftest import without_norm

        without_norm(pytest.MonkeyPatch())
    if "kill_loader_at" in request:
        _killed_loader(request["kill_loader_at"], request.get("pids"))
    die, places = request.get("die"), request.get("places")
    if die is None and places is None:
        return

    def pass_by(place: str) -> None:
        if places is not None:
            with open(places, "a") as file:
                print(place, file=file)
        if place == die:
            before()
            if group:
                os.killpg(int(os.environ["CLIENT_GROUP"]), signal.SIGKILL)  # see warm.py
            os.kill(os.getpid(), signal.SIGKILL)

    _steps(pass_by)
    _predicting(pass_by)
    _writing(pass_by)


def _steps(pass_by: Any) -> None:
    original = loop.step

    def step(job: Any, networks: Any, optimizer: Any, batch: Any, clock: Any) -> Any:
        global _where, _predictions
        _where, _predictions = f"{job.name.split()[0]} step {clock.step}", 0
        pass_by(f"{_where}: begin")
        parts = original(job, networks, optimizer, batch, clock)
        pass_by(f"{_where}: end")
        return parts

    loop.step = step


def _predicting(pass_by: Any) -> None:
    original = Predictor.__call__

    def call(self: Predictor, images: Any) -> Any:
        global _predictions
        _predictions += 1
        pass_by(f"{_where or 'evaluate'}: prediction {_predictions}")
        return original(self, images)

    Predictor.__call__ = call  # type: ignore[method-assign]


def note_attempts(path: str) -> None:
    """Write down every attempt of this process to look up or reach another machine."""

    def hear(event: str, arguments: tuple) -> None:
        if event == "socket.getaddrinfo" or (event == "socket.connect" and arguments[0].family != socket.AF_UNIX):
            with open(path, "a") as file:
                print(event, *arguments, file=file)

    sys.addaudithook(hear)


def _killed_loader(number: int, pids: str | None) -> None:
    """Kill the loader's processes before step `number`, as the system does when memory runs out.

    With `pids`, kill this process instead, and write theirs into that file.
    """
    original, made = loader.batches, []

    def batches(*arguments: Any, **options: Any) -> Any:
        made.append(iter(original(*arguments, **options)))
        return made[0]

    def step(job: Any, networks: Any, optimizer: Any, batch: Any, clock: Any) -> Any:
        if clock.step == number:
            if pids is not None:
                Path(pids).write_text(" ".join(str(worker.pid) for worker in made[0]._workers))
                os.kill(os.getpid(), signal.SIGKILL)
            for worker in made[0]._workers:
                os.kill(worker.pid, signal.SIGKILL)
        return done(job, networks, optimizer, batch, clock)

    done = loop.step
    loader.batches, loop.step = batches, step


def named(path: str | Path) -> str:
    """A file by its path, without the fingerprint in a checkpoint's."""
    path = Path(path)
    return str(path if path.suffix != ".pt" else path.parent.with_name(path.name))


def _writing(pass_by: Any) -> None:
    atomic, replace = files.atomic, os.replace

    @contextmanager
    def write(path: Path) -> Iterator[Path]:
        with atomic(path) as temporary:
            yield temporary
            whole = temporary.read_bytes()
            temporary.write_bytes(whole[: len(whole) // 2])
            pass_by(f"{named(path)}: half written")
            temporary.write_bytes(whole)
        pass_by(f"{named(path)}: renamed")

    def rename(source: Any, target: Any, **more: Any) -> None:
        if Path(target).parts[0] != "logs":
            pass_by(f"{named(target)}: written")
        replace(source, target, **more)

    files.atomic = write  # type: ignore[assignment]
    os.replace = rename  # type: ignore[assignment]
