"""GPU allocation among the jobs of a machine, with file locks that the kernel releases however a job ends.

All jobs, whoever starts them (Snakemake, DVC's queue, a user), lock files in one folder. A job that has a GPU to itself
locks the GPU's file exclusively. With `runtime.cells_per_gpu` > 1 it locks that file shared, and one of the GPU's
numbered slot files exclusively. A job takes all the GPUs it needs or none, so jobs cannot deadlock.

Must not import torch: CUDA reads CUDA_VISIBLE_DEVICES once, at initialisation.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dualteacher.machine import mps
from dualteacher.settings import Runtime
from dualteacher.system import console, files, heartbeat
from dualteacher.system.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
FOLDER = "DUALTEACHER_SLOTS"  # environment variable: another folder for the locks
LAUNCHED = "DUALTEACHER_LAUNCHED"  # set in processes started by machine/launcher.py
DEVICE = re.compile(r"\d+|(GPU|MIG)-\S+")  # a valid entry of CUDA_VISIBLE_DEVICES; "-1" and "NoDevFiles" are not
NVIDIA = Path("/proc/driver/nvidia/gpus")
POLL, REMIND = 0.5, 60.0  # seconds between attempts; between heartbeats while waiting

Locks = list[int]  # file descriptors


def devices() -> list[str]:
    """The GPUs this process may use: the entries of CUDA_VISIBLE_DEVICES, else indices from 0."""
    listed = os.environ.get(VISIBLE)
    if listed is None:
        return [str(index) for index in range(_installed())]
    names: list[str] = []
    for name in (part.strip() for part in listed.split(",")):
        if not DEVICE.fullmatch(name):
            break  # CUDA ignores everything from the first invalid entry on
        names.append(name)
    return list(dict.fromkeys(names))


def _installed() -> int:
    """Number of GPUs by device files; torch or nvidia-smi would take seconds."""
    nvidia = sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in Path("/dev").glob("nvidia*"))
    nodes = Path("/sys/class/kfd/kfd/topology/nodes")
    with suppress(OSError):
        return nvidia or sum(path.read_text(encoding="utf-8").strip() != "0" for path in nodes.glob("*/gpu_id"))
    return nvidia


@contextmanager
def taken(runtime: Runtime) -> Iterator[None]:
    """Wait for and hold a slot on every GPU the job needs; hides the other GPUs from CUDA.

    UserError if the job needs more GPUs than it may use, or if torchrun started it on a busy one.
    """
    names, count = devices(), runtime.processes
    if runtime.device in ("cpu", "mps") or not names:
        yield
    elif "WORLD_SIZE" in os.environ:
        yield from _under_torchrun(names, runtime)
    elif ":" in runtime.device:  # cuda:1: index into the visible GPUs
        index = int(runtime.device.partition(":")[2])
        yield from _hold(names[index : index + 1], 1, runtime, show=False)  # device.pick refuses a missing one
    elif count > len(names):
        raise UserError(
            f"runtime.processes = {count} needs as many GPUs, but only {len(names)} can be used ({', '.join(names)});"
            " lower it"
        )
    elif "SLURM_JOB_ID" in os.environ and VISIBLE in os.environ and len(names) == count:
        yield  # allocated to this job by Slurm
    else:
        yield from _hold(names, count, runtime)


def _hold(names: Sequence[str], count: int, runtime: Runtime, show: bool = True) -> Iterator[None]:
    """Wait for and hold `count` of the GPUs. show: set CUDA_VISIBLE_DEVICES to them."""
    held = _wait(names, count, runtime.cells_per_gpu)
    before = os.environ.get(VISIBLE)
    chosen = ",".join(name for name in names if name in held)
    if show and chosen:
        os.environ[VISIBLE] = chosen
        console.logger.info("%s=%s (from %s)", VISIBLE, chosen, ",".join(names))
    try:
        with mps.shared(folder(), runtime.cells_per_gpu):
            yield
    finally:
        if before is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = before
        _release(held)


def _under_torchrun(names: Sequence[str], runtime: Runtime) -> Iterator[None]:
    """The first process of the machine locks the GPUs of all; local rank n uses the n-th.

    Does not wait for a busy GPU: the other processes would time out.
    """
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if LAUNCHED in os.environ or not first or "SLURM_JOB_ID" in os.environ:
        yield  # held by machine/launcher.py, the first process or Slurm
        return
    held = _try(names[:count], count, runtime.cells_per_gpu) if count <= len(names) else {}
    if held is None:
        raise UserError(
            f"another job is using one of GPU {', '.join(names[:count])}; name free ones in {VISIBLE}, or start without"
            f" torchrun and with runtime.processes = {count}, which waits for them"
        )
    try:
        yield
    finally:
        _release(held)


def _wait(names: Sequence[str], count: int, sharers: int) -> dict[str, Locks]:
    """Repeat `_try` until it succeeds. Log and status show that the job is waiting."""
    reminded = -REMIND
    while True:
        held = _try(names, count, sharers)
        if held is not None:
            heartbeat.beat()
            return held
        if time.monotonic() - reminded >= REMIND:
            what = "a free GPU" if count == 1 else f"{count} free GPUs"
            if reminded < 0:
                console.logger.warning("waiting for %s: all of %s are in use", what, ",".join(names))
            heartbeat.beat(waiting=what)
            reminded = time.monotonic()
        time.sleep(POLL)


def _try(names: Sequence[str], count: int, sharers: int) -> dict[str, Locks] | None:
    """Lock a slot on each of `count` GPUs, those with fewest jobs first. None unless all are available."""
    held: dict[str, Locks] = {}
    gate = _lock("gate", fcntl.LOCK_EX)  # one job at a time
    assert gate is not None
    for slot in range(sharers):
        for name in names:
            if len(held) < count and name not in held and (locks := _lock_slot(name, slot, sharers)):
                held[name] = locks
    os.close(gate)
    if len(held) < min(count, len(names)):
        _release(held)
        return None
    return held


def _lock_slot(name: str, slot: int, sharers: int) -> Locks | None:
    """Lock the whole GPU if sharers == 1, else its slot `slot`. None if another job has it."""
    device = f"gpu-{_index(name)}"
    how = fcntl.LOCK_EX if sharers == 1 else fcntl.LOCK_SH
    whole = _lock(device, how | fcntl.LOCK_NB)
    if whole is None or sharers == 1:
        return None if whole is None else [whole]
    part = _lock(f"{device}.{slot}", fcntl.LOCK_EX | fcntl.LOCK_NB)
    if part is None:
        os.close(whole)
        return None
    return [whole, part]


def _release(held: dict[str, Locks]) -> None:
    for locks in held.values():
        for lock in locks:
            os.close(lock)


def _index(name: str) -> str:
    """The index of a GPU given by UUID, so that both names share one lock; other names unchanged."""
    if name.startswith("GPU-"):
        for index, folder in enumerate(sorted(NVIDIA.glob("*"))):  # sorted by PCI bus, like CUDA's indices
            with suppress(OSError):
                if f" {name}" in re.sub(r"\s+", " ", (folder / "information").read_text(encoding="utf-8")):
                    return str(index)
    return name


def folder() -> Path:
    """The folder of the locks: one per machine for all users; one per Slurm job, whose GPUs are numbered from 0."""
    chosen = os.environ.get(FOLDER)
    place = Path(chosen) if chosen else Path("/tmp/dualteacher-gpus")
    return place / f"slurm-{job}" if (job := os.environ.get("SLURM_JOB_ID")) else place


def _lock(name: str, how: int) -> int | None:
    """Lock a file in the folder. None if `how` is non-blocking and another process holds it."""
    path = folder() / re.sub(r"[^\w.-]", "_", name)
    try:
        descriptor = _open(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot open the GPU lock ({error.strerror}); set {FOLDER} to another folder on this machine"
        ) from error
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        os.close(descriptor)
        if error.errno in files.LOCKED:
            return None
        raise UserError(
            f"{path}: cannot lock ({error.strerror}); set {FOLDER} to a folder that supports locks"
        ) from error
    return descriptor


def _open(path: Path) -> int:
    """Open for reading, which suffices for a lock and is allowed on another user's file."""
    if not path.parent.is_dir():
        for parent in (path.parent.parent, path.parent):
            with suppress(FileExistsError):
                parent.mkdir()
                parent.chmod(0o777 | stat.S_ISVTX)  # like /tmp: everyone may create files, only owners delete
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644))
    return os.open(path, os.O_RDONLY)
