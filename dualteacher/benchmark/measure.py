"""Interleaved timing, and peak memory measured in a separate process."""

from __future__ import annotations

import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dualteacher.benchmark.programs import Program
from dualteacher.machine.device import repeatable
from dualteacher.system.errors import UserError


def prepare(device: torch.device, threads: int) -> None:
    """Set threads and determinism for the whole process, as training does."""
    torch.set_num_threads(threads)
    repeatable(device)


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(programs: Mapping[str, Program], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds per step of each program, interleaved as a b c a b c …; their first steps are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    first = warm_up(device)
    for step in range(-first, repeats):
        for name, program in programs.items():
            wait(device)
            began = time.perf_counter()
            program(step + first)
            wait(device)
            if step >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def warm_up(device: torch.device) -> int:
    """Steps before a program is what it stays: on a GPU, until the graphs of both mixes are captured and tested."""
    return 10 if device.type == "cuda" else 2


def host(program: Program, device: torch.device, repeats: int) -> list[float]:
    """Seconds until each call returns, that is until all of a step is launched, with an idle device."""
    seconds = []
    for step in range(repeats):
        wait(device)
        began = time.perf_counter()
        program(step)
        seconds.append(time.perf_counter() - began)
    wait(device)
    return seconds


def launches(program: Program, device: torch.device, steps: int = 4) -> float:
    """Kernels, copies and graphs that the host launches per step, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        for step in range(steps):
            program(step)
        wait(device)
    calls = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
    return sum(event.name.startswith(calls) for event in found.events()) / steps


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, minimum, maximum and all values."""
    rounded = [round(value, 5) for value in seconds]
    middle = round(statistics.median(seconds), 5)
    return {"median_seconds": middle, "least_seconds": min(rounded), "most_seconds": max(rounded), "seconds": rounded}


def peak(make: Callable[[], Program], device: torch.device, steps: int | None = None) -> int:
    """Peak memory of the steps (default: two beyond the warm-up), in bytes above the level before the first.

    On a CUDA device above the level before `make`: a graph's memory is allocated when it is captured, not in its steps.
    """
    steps = steps or warm_up(device) + 2
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        program = make()
    else:
        program = make()
        before = resident()
    for step in range(steps):
        program(step)
    wait(device)
    return (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident()) - before


def resident() -> int:
    """Peak resident memory of this process, bytes.

    Uses /proc on Linux, where `getrusage` includes the memory of the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)


def in_a_process_of_its_own(what: Mapping[str, Any]) -> int:
    """Run dualteacher.benchmark.memory on `what` in a new process, since a process's peak never decreases; bytes."""
    command = [sys.executable, "-m", "dualteacher.benchmark.memory", json.dumps(what)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        raise UserError(f"benchmark: {' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return int(done.stdout.strip().splitlines()[-1])
