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

COMPILE = """
import numpy as np
from dualteacher.core.upsampling import cpu, numba_kernels
logits, label = np.zeros((1, 2, 2, 3), np.float32), np.zeros((1, 4, 4), np.int64)
cpu.cross_entropy(logits, label, np.ones((1, 4, 4), np.float32), 255)
for with_confidence in (False, True):
    cpu.label_and_confidence(logits, (4, 4), with_confidence)
cpu.enlarge(logits, (4, 4))
numba_kernels.count_pairs(np.zeros(4, np.uint8), np.zeros(4, np.int64), 3, 255, np.zeros(11, np.int64))
"""


def pytest_sessionstart(session) -> None:
    """Compile the CPU's sweeps once, before the workers and the copies of the project all would."""
    if not hasattr(session.config, "workerinput") and session.config.getoption("numprocesses", None):
        subprocess.run([sys.executable, "-c", COMPILE], cwd=Path(__file__).parents[1], check=True)


def pytest_collection_modifyitems(items) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
