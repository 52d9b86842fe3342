"""NVIDIA's Multi-Process Service, with which jobs that share a GPU run side by side instead of by turns."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualteacher.system.console import logger

CONTROL = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
LOGS = "CUDA_MPS_LOG_DIRECTORY"
USUAL = Path("/tmp/nvidia-mps")  # where a service that somebody else has started listens


@contextmanager
def shared(folder: Path, sharers: int) -> Iterator[None]:
    """Run a job under MPS if several share a GPU and the service is installed; the log says which.

    The first such job of a user starts the service, the last one ends it.
    """
    if sharers == 1:
        yield
        return
    if PIPES in os.environ or (USUAL / "control").exists():
        logger.info("jobs share GPUs by the MPS that is running")
        yield
        return
    if shutil.which(CONTROL) is None:
        logger.info("jobs share GPUs by turns: no %s here", CONTROL)
        yield
        return
    place = folder / f"mps-{os.getuid()}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = {PIPES: str(place), LOGS: str(place)}
    users = os.open(place / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)  # shared by all jobs that use the service
    with _alone(place):
        fcntl.flock(users, fcntl.LOCK_SH)
        if works := _start(environment):
            os.environ.update(environment)
    try:
        yield
    finally:
        for name in environment if works else ():
            os.environ.pop(name, None)
        with _alone(place):
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # other jobs use it
                pass
            else:
                _ask("quit", environment)
            os.close(users)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One job at a time starts or ends the service."""
    lock = os.open(place / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _start(environment: dict[str, str]) -> bool:
    """Start the service unless it answers; False, with its words in the log, if it does not work.

    A job that looks for a service that does not work finds no GPU at all, so its server is started here.
    """
    if _ask("get_server_list", environment).strip():
        logger.info("jobs share GPUs by MPS")
        return True
    everything = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"} | environment
    words = ""
    try:
        subprocess.run([CONTROL, "-d"], env=everything, capture_output=True, timeout=20, check=False)
        words = _ask(f"start_server -uid {os.getuid()}", environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        words = str(error)
    if _ask("get_server_list", environment).strip():
        logger.info("jobs share GPUs by MPS, started for them")
        return True
    _ask("quit", environment)
    logger.info("jobs share GPUs by turns: %s did not start a server %s", CONTROL, " ".join(words.split()))
    return False


def _ask(command: str, environment: dict[str, str]) -> str:
    """The service's answer; "" without one."""
    try:
        done = subprocess.run(
            [CONTROL],
            input=command + "\n",
            env=os.environ | environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
