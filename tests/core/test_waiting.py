"""A run that waits for its next batch: it can be stopped, says why it waits, and does not overfill shared memory."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dualteacher.data import loader
from dualteacher.data.channels import RGB
from dualteacher.machine import interrupt, shared_memory
from dualteacher.machine.distributed import World
from dualteacher.machine.interrupt import StopWaiting, listening
from dualteacher.machine.shared_memory import Plan, Room
from dualteacher.stages import evaluate, train
from dualteacher.system import paths
from dualteacher.system.errors import Interrupted
from dualteacher.training import feed, loop, waiting
from dualteacher.training.waiting import Watchdog, likely_cause

from .conftest import ROOT
from .test_training import CELL, hashes, project, run_all  # noqa: F401  # a fixture

MB = 2**20


@pytest.mark.slow
@pytest.mark.parametrize(("number", "given"), [(signal.SIGTERM, 0), (signal.SIGINT, 2)])
def test_a_signal_ends_a_run_that_waits_and_it_goes_on_exactly(project, monkeypatch, number, given):  # noqa: F811
    expected = run_all(project)
    for path in (paths.Cell(*CELL).student, paths.Cell(*CELL).history):
        path.unlink()
    original = loop.feed

    def stuck(*arguments) -> Iterator[loader.StepBatch]:
        batches = original(*arguments)
        for _ in range(given):
            yield next(batches)
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        threading.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "feed", stuck)
        with pytest.raises(Interrupted, match=f"at step {given} of 6; the same"):
            train.run(project, "toy", "some", "dual_teacher", 0)
    assert list(paths.CHECKPOINTS.rglob(f"step00000000{given}.pt"))
    train.run(project, "toy", "some", "dual_teacher", 0)
    evaluate.run(project, "toy", "some", "dual_teacher", 0)
    assert hashes() == expected


def signalled(batch: threading.Event) -> Iterator[int]:
    """An item that comes once `batch` is set; SIGTERM comes while somebody waits for it."""
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    batch.wait()
    yield 1


def test_one_process_of_several_first_waits_on_for_its_batch(monkeypatch):
    """The others stop only together with it; it leaves them where its batch does not come."""
    monkeypatch.setattr(waiting, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(interrupt, "PATIENCE", 60.0)
    batch = threading.Event()
    threading.Timer(0.5, batch.set).start()
    with listening() as request, Watchdog(request, "x"):
        assert list(request.over(signalled(batch), World(0, 2))) == [1]
        assert request.signal == signal.SIGTERM
    monkeypatch.setattr(interrupt, "PATIENCE", 0.5)
    with listening() as request, Watchdog(request, "x"), pytest.raises(StopWaiting):
        list(request.over(signalled(threading.Event()), World(0, 2)))


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, interrupt.LOOK)]
    with listening():
        assert signal.getsignal(interrupt.LOOK) != before[2]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, interrupt.LOOK)] == before


def run(text: str, folder: Path, *inside: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own; inside: the command that starts it."""
    script = folder / "script.py"
    script.write_text(text)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*inside, sys.executable, str(script)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


# The loader processes import these scripts: all under `if`, which spares them seconds.
SUSPENDED = """
if __name__ == "__main__":
    import multiprocessing, os, signal, threading
    from dualteacher import cli
    from dualteacher.stages import warmup
    from dualteacher.system import console
    from dualteacher.training import loop
    from tests.core.conftest import toy_settings

    settings = toy_settings(runtime={"workers": 1}, warmup={"steps": 400, "epochs": None})
    step = loop.step

    def suspending(job, networks, optimizer, batch, clock):
        if clock.step == 1:
            (child,) = multiprocessing.active_children()
            os.kill(child.pid, signal.SIGSTOP)
            threading.Timer(2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return step(job, networks, optimizer, batch, clock)

    loop.step = suspending
    console.start()
    cli.guarded(lambda: warmup.run(settings, "toy", "some", 0))
"""


@pytest.mark.slow
def test_a_run_whose_loader_process_is_stuck_ends_by_a_signal(project, tmp_path):  # noqa: F811
    done = run(SUSPENDED, tmp_path)
    assert done.returncode == 75, done.stderr
    assert "stopped: warmup toy-some-warmup-0 at step" in done.stderr and "Traceback" not in done.stderr
    (saved,) = paths.CHECKPOINTS.rglob("step*.pt")
    assert 1 < int(saved.stem.removeprefix("step")) < 20  # what the loader had prepared when it was suspended


SMALL = """
if __name__ == "__main__":
    from dualteacher import cli
    from dualteacher.stages import warmup
    from dualteacher.system import console
    from tests.core.conftest import toy_settings

    # Batches of 2 × 160² × 4 bytes; with all that two loader processes prepare, ten of them.
    settings = toy_settings(runtime={"workers": 2}, warmup={"steps": 12, "epochs": None}, batch={"crop": 160})
    console.start()
    cli.guarded(lambda: warmup.run(settings, "toy", "some", 0))
"""


@pytest.mark.slow
def test_a_run_ends_on_a_machine_with_little_shared_memory(project, tmp_path):  # noqa: F811
    """Room for seven batches. Without the check it would fail or wait for ever."""
    mount = f"mount -t tmpfs -o size={7 * 2 * 160**2 * 4 // 1024}k none /dev/shm"
    inside = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small /dev/shm is not allowed here")
    done = run(SMALL, tmp_path, *inside)
    assert done.returncode == 0, done.stderr
    assert "loading with 2 of them, 2 batches ahead" in done.stderr
    assert paths.Cell("toy", "some", "warmup", 0).student.exists()


def sleep() -> None:
    time.sleep(600)


def turn() -> None:
    while True:
        pass


@pytest.fixture
def child() -> Iterator[multiprocessing.Process]:
    made: list[multiprocessing.Process] = []

    def start(target) -> multiprocessing.Process:
        made.append(multiprocessing.get_context("fork").Process(target=target, daemon=True))
        made[0].start()
        return made[0]

    yield start  # type: ignore[misc]
    for process in made:
        process.kill()
        process.join()


def eventually(words: str) -> None:
    for _ in range(200):
        if words in likely_cause():
            return
        time.sleep(0.05)
    pytest.fail(likely_cause())


def test_the_likely_cause_of_a_wait(child, monkeypatch):
    assert "reading or decoding images takes this long" in likely_cause()
    process = child(sleep)
    eventually("the loader processes sleep")
    os.kill(process.pid, signal.SIGSTOP)
    eventually("a loader process is suspended")
    monkeypatch.setattr(shared_memory, "room", lambda: Room(2 * MB, 64 * MB))
    assert "/dev/shm is nearly full (2 of 64 MB free)" in likely_cause() and "--shm-size" in likely_cause()


def test_busy_loader_processes_are_no_fault(child):
    child(turn)
    eventually("still busy")


def test_the_watchdog_says_it_once_and_again_when_the_wait_has_doubled(monkeypatch, caplog):
    monkeypatch.setattr(waiting, "LOOK_EVERY", 0.01)
    request = interrupt.Request()
    request.waiting_since = time.monotonic() - 130
    with caplog.at_level(logging.WARNING, "dualteacher"), Watchdog(request, "train x"):
        while not caplog.messages:
            time.sleep(0.01)
        time.sleep(0.2)
    (message,) = caplog.messages
    assert message.startswith("train x: no batch for 2 min: reading or decoding images")
    assert "SIGTERM or Ctrl-C saves the run and ends it" in message


@pytest.mark.parametrize(
    ("free", "workers", "batch", "processes", "plan"),
    [
        (None, 4, 16 * MB, 1, Plan(4)),  # no such folder
        (64 * MB, 0, 16 * MB, 1, Plan(0)),
        (64 * MB, 4, MB, 1, Plan(4)),  # 18 batches
        (17 * MB, 4, MB, 1, Plan(4, 2)),  # 10
        (9 * MB, 4, MB, 1, Plan(4, 1)),  # 6
        (5 * MB, 4, MB, 1, Plan(3, 1)),
        (64 * MB, 4, 16 * MB, 1, Plan(2, 1)),
        (64 * MB, 4, 16 * MB, 2, Plan(0)),  # two processes of a run share it
        (64 * MB, 4, 30 * MB, 1, Plan(0)),
        (0, 1, 1, 1, Plan(0)),
    ],
)
def test_loader_processes_fit_into_shared_memory(monkeypatch, free, workers, batch, processes, plan):
    monkeypatch.setattr(shared_memory, "room", lambda: None if free is None else Room(free, 64 * MB))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert shared_memory.fit(workers, batch) == plan


def test_room_is_that_of_the_file_system(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path / "missing")
    assert shared_memory.room() is None
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    found, state = shared_memory.room(), os.statvfs(tmp_path)
    assert found is not None and found.total == state.f_blocks * state.f_frsize and 0 < found.free <= found.total


def dataset(side: int) -> SimpleNamespace:
    return SimpleNamespace(side=side, pack=SimpleNamespace(channels=RGB))


@pytest.mark.parametrize(
    ("free", "plan", "words"), [(70, Plan(2, 1), "2 of them, 1 batches ahead"), (20, Plan(0), "none")]
)
def test_a_run_with_little_shared_memory_loads_with_fewer_processes_and_says_so(monkeypatch, caplog, free, plan, words):
    monkeypatch.setattr(shared_memory, "room", lambda: Room(free * MB, 64 * MB))
    asked: dict = {}
    monkeypatch.setattr(loader, "batches", lambda *_, **options: asked.update(options) or [])
    stream = loader.Stream("labelled", np.arange(4), 0)
    takes = [loader.Take(stream, 8, slice(0, 8)), loader.Take(stream, 8, slice(0, 8))]  # 16 images of 512²: 16 MB
    with caplog.at_level(logging.WARNING, "dualteacher"):
        list(feed.feed(dataset(512), takes, 0, 1, 4, torch.device("cpu")))
    assert asked == {"workers": plan.workers, "prefetch": plan.prefetch, "pin": False}
    (message,) = caplog.messages
    assert f"/dev/shm: {free} of 64 MB free, too little for runtime.workers = 4 with batches of 16 MB" in message
    assert f"loading with {words}" in message and "docker run --shm-size" in message


def test_a_stop_does_not_wait_for_locks_of_killed_loader_processes(monkeypatch):
    """Whoever is killed inside `Event.is_set` keeps the lock that the DataLoader's shutdown needs."""
    stream = loader.Stream("labelled", np.arange(4), 0)

    class Stopped:
        def __iter__(self):
            return self

        def __next__(self):
            raise StopWaiting

    stopped = Stopped()
    monkeypatch.setattr(loader, "batches", lambda *_, **__: stopped)
    with pytest.raises(StopWaiting):
        list(feed.feed(dataset(8), [loader.Take(stream, 2, slice(0, 2))], 0, 1, 1, torch.device("cpu")))
    assert stopped._shutdown


def test_enough_room_is_not_mentioned(monkeypatch, caplog):
    monkeypatch.setattr(shared_memory, "room", lambda: Room(64 * MB, 64 * MB))
    takes = [loader.Take(loader.Stream("labelled", np.arange(4), 0), 2, slice(0, 2))]
    assert feed.plan_for(dataset(64), takes, 4) == Plan(4) and not caplog.messages
    assert Path(shared_memory.FOLDER) == Path("/dev/shm")
