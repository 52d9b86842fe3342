"""The device a job runs on, and reproducible numbers on it."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch

from dualteacher.settings import Runtime
from dualteacher.system.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of GNU's malloc.h


def setup(runtime: Runtime) -> torch.device:
    """Pick the device; set this process's threads and determinism."""
    device = pick(runtime.device)
    torch.set_num_threads(runtime.threads)
    repeatable(device)
    return device


def repeatable(device: torch.device) -> None:
    """Set this process's determinism and speed.

    On a CPU the same commit, parameters and seed give the same bytes. On a GPU cuDNN picks its fastest algorithms, so
    runs agree to rounding.
    """
    if device.type == "cpu":
        keep_freed_memory()
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time
    else:
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


def keep_freed_memory() -> None:
    """Let the C library keep large freed blocks for the next step instead of returning them to the system.

    Each step allocates the same blocks again, and fresh memory costs a page fault per 4 KiB: up to a third of a step's
    time. Affects GNU's C library only.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def pick(name: str) -> torch.device:
    """'auto' takes a CUDA device if there is one, else the CPU; UserError if a named device is missing."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"runtime.device = {name}: no CUDA device is visible; set it to auto or cpu")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise UserError(f"runtime.device = {name}: only {torch.cuda.device_count()} CUDA devices are visible")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"runtime.device = {name}: not available here; set it to auto or cpu")
    return device


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of a CUDA device, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
