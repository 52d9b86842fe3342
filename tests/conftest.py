"""For all tests."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import setuptools  # noqa: F401  # before anything imports the standard library's distutils: torch.compile wants this one
import torch
from hypothesis import settings

# One thread per process, here and in what tests start: on few cores, the workers' threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# Without a GPU, Triton's kernels run in its interpreter. It has to be chosen before anything imports Triton.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# `make test ARGS=…` hands its ARGS on to every make below it, and tests call make.
for name in ("ARGS", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES"):
    os.environ.pop(name, None)

# Tests neither wait for the machine's jobs nor hold them up.
os.environ["DUALTEACHER_SLOTS"] = str(Path(tempfile.gettempdir()) / f"dualteacher-tests-{os.getpid()}")

# The same examples every time: a suite that fails once in a hundred runs teaches people to run it twice.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# A background job of a script is born with Ctrl-C ignored, and so would be the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)

# What takes longest (`pytest --durations 60`), a file or a folder whose fixtures take long to make: see `unit`.
LONGEST = (
    "tests/reliability/",
    "tests/slurm/",
    "tests/scaling/test_dvc.py",
    "tests/distributed/",
    "tests/docs/test_commands.py",
    "tests/workflow/test_real.py",
    "tests/core/test_training.py",
    "tests/workflow/test_rerun.py",
    "tests/workflow/test_adopt.py",
    "tests/core/test_waiting.py",
    "tests/data/test_own_data_tutorial.py",
    "tests/control/",
    "tests/data/test_large.py",
    "tests/core/test_triton.py",
    "tests/api/",
    "tests/reporting/",
)


KERNELS = [sys.executable, "-c", "from dualteacher.workflow import precompile; precompile.kernels()"]


@pytest.fixture(scope="session")
def spawner():
    """Runs the program's commands in forked children: spawner(folder, ["prepare", …])."""
    from tests.reliability.conftest import Spawner

    made = Spawner()
    yield made
    made.close()


def unit(nodeid: str) -> str:
    """What one worker runs as a whole: a file, or a part of LONGEST."""
    file = nodeid.partition("::")[0]
    return next((part for part in LONGEST if file.startswith(part)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
    """One worker more than there are cores: some tests wait for the network, for Slurm or for a signal."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS
    return cores + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Hand out units in the order of collection: each worker makes a module's fixtures once.

    While the workers collect, the CPU's sweeps are compiled: once, not by all workers and copies of the project.
    """
    from xdist.scheduler import LoadScopeScheduling

    compiling = subprocess.Popen(KERNELS, cwd=Path(__file__).parents[1])

    class Units(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit(nodeid)

        def schedule(self) -> None:
            assert compiling.wait() == 0, KERNELS
            super().schedule()

    config.option.loadscopereorder = False
    return Units(config, log)


def longest_first(items) -> None:
    """Sort units so that the workers end together: LONGEST, other files with slow tests, the rest."""
    slow = {unit(item.nodeid) for item in items if item.get_closest_marker("slow")}
    rank = {part: number for number, part in enumerate(LONGEST)}
    items.sort(key=lambda item: (rank.get(name := unit(item.nodeid), len(LONGEST)), name not in slow))


def pytest_collection_modifyitems(items) -> None:
    longest_first(items)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
