"""Device choice, and settings for reproducible and fast computation on it."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch

from dualteacher.settings import Runtime
from dualteacher.system.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


def setup(runtime: Runtime) -> torch.device:
    """Choose the device, and set this process's threads and determinism."""
    device = pick(runtime.device)
    torch.set_num_threads(runtime.threads)
    repeatable(device)
    return device


def repeatable(device: torch.device) -> None:
    """Configure determinism and speed of this process.

    On a CPU the same commit, parameters and seed give the same bytes. On a GPU cuDNN chooses its fastest algorithms,
    and runs agree up to rounding.
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
    """Make glibc keep large freed blocks instead of returning them to the system. No effect on other C libraries.

    Each step allocates the same blocks again, and fresh memory costs a page fault per 4 KiB: up to a third of a step's
    time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def pick(name: str) -> torch.device:
    """The device called `name`; "auto": CUDA if available, else the CPU. UserError if a named device is missing."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"runtime.device = {name}: no CUDA device; set it to auto or cpu")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise UserError(f"runtime.device = {name}: only {torch.cuda.device_count()} CUDA devices; use a lower index")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"runtime.device = {name}: not available here; set it to auto or cpu")
    return device


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on a CUDA device, else this process's resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
