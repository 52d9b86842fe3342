"""NVIDIA's Multi-Process Service (MPS), which lets jobs on one GPU run concurrently instead of time-sliced."""

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
DEFAULT = Path("/tmp/nvidia-mps")  # the default folder, of a service started by somebody else


@contextmanager
def shared(folder: Path, sharers: int) -> Iterator[None]:
    """Run a job under MPS if several share a GPU and MPS is installed. Logs whether it does.

    A user's first such job starts the service, the last one stops it.
    """
    if sharers == 1:
        yield
        return
    if PIPES in os.environ or (DEFAULT / "control").exists():
        logger.info("GPU sharing: using the MPS that is already running")
        yield
        return
    if shutil.which(CONTROL) is None:
        logger.info("GPU sharing: time-sliced, %s is not installed", CONTROL)
        yield
        return
    place = folder / f"mps-{os.getuid()}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = {PIPES: str(place), LOGS: str(place)}
    users = os.open(
        place / "users.lock", os.O_RDWR | os.O_CREAT, 0o600
    )  # locked shared by all jobs that use the service
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
    """Only one job at a time starts or stops the service."""
    lock = os.open(place / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _start(environment: dict[str, str]) -> bool:
    """Start the service unless it is running. If that fails, log its output and return False.

    Also starts its server, to find out now whether it works: with a broken service a job would find no GPU at all.
    """
    if _ask("get_server_list", environment).strip():
        logger.info("GPU sharing: MPS")
        return True
    everything = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"} | environment
    output = ""
    try:
        subprocess.run([CONTROL, "-d"], env=everything, capture_output=True, timeout=20, check=False)
        output = _ask(f"start_server -uid {os.getuid()}", environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        output = str(error)
    if _ask("get_server_list", environment).strip():
        logger.info("GPU sharing: started MPS")
        return True
    _ask("quit", environment)
    logger.info("GPU sharing: time-sliced, %s did not start a server %s", CONTROL, " ".join(output.split()))
    return False


def _ask(command: str, environment: dict[str, str]) -> str:
    """Send a command to the service and return its answer; "" if it fails."""
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
