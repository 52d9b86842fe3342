"""Taking turns, and the memory of a program in a process of its own."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dualteacher.benchmark.programs import Program
from dualteacher.machine.device import repeatable
from dualteacher.system.errors import UserError


def prepare(device: torch.device, threads: int) -> None:
    """Settings of the process, as training has them, the same for all programs."""
    torch.set_num_threads(threads)
    repeatable(device)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(programs: Mapping[str, Program], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each step of each program: a b c a b c …; each program's first two steps do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for step in range(-2, repeats):
        for name, program in programs.items():
            wait(device)
            began = time.perf_counter()
            program(step + 2)
            wait(device)
            if step >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, least and most, with the single values."""
    rounded = [round(value, 5) for value in seconds]
    middle = round(statistics.median(seconds), 5)
    return {"median_seconds": middle, "least_seconds": min(rounded), "most_seconds": max(rounded), "seconds": rounded}


def peak(program: Program, device: torch.device, steps: int = 4) -> int:
    """Bytes that steps add at their peak to what was there before the first."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        before = resident()
    for step in range(steps):
        program(step)
    wait(device)
    return (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident()) - before


def resident() -> int:
    """The most memory this process has had, bytes.

    Linux counts, in what `getrusage` gives, the memory of the process that started this one; /proc does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)


def in_a_process_of_its_own(what: Mapping[str, Any]) -> int:
    """`peak` of what dualteacher.benchmark.memory makes of `what`: a process never gives its peak back."""
    command = [sys.executable, "-m", "dualteacher.benchmark.memory", json.dumps(what)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        raise UserError(f"benchmark: {' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return int(done.stdout.strip().splitlines()[-1])
