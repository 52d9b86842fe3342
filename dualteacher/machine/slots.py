"""Which GPU a job may use: a slot is a lock that the kernel gives back however the job ends.

All jobs of a machine, whoever starts them (Snakemake, DVC's queue, a person), lock files in one folder. A job that has
a GPU to itself locks the GPU's file exclusively. With `runtime.cells_per_gpu` it shares that lock and locks one of the
GPU's numbered files. A job that needs several GPUs takes all or none of them, so no two jobs wait for each other.

Nothing here imports torch: CUDA reads CUDA_VISIBLE_DEVICES once, when torch starts it.
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
FOLDER = "DUALTEACHER_SLOTS"  # names another folder for the locks
LAUNCHED = "DUALTEACHER_LAUNCHED"  # set in the processes that runtime.processes has started
DEVICE = re.compile(r"\d+|(GPU|MIG)-\S+")  # a name in CUDA_VISIBLE_DEVICES; "-1", "NoDevFiles": none
NVIDIA = Path("/proc/driver/nvidia/gpus")
POLL, REMIND = 0.5, 60.0  # seconds between attempts; between signs of life while waiting

Locks = list[int]  # descriptors


def devices() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES lists them or else counted from 0."""
    listed = os.environ.get(VISIBLE)
    if listed is None:
        return [str(index) for index in range(_installed())]
    names: list[str] = []
    for name in (part.strip() for part in listed.split(",")):
        if not DEVICE.fullmatch(name):
            break  # as CUDA does: nothing after the first name that is none
        names.append(name)
    return list(dict.fromkeys(names))


def _installed() -> int:
    """GPUs by their device files: asking torch or nvidia-smi would take seconds."""
    nvidia = sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in Path("/dev").glob("nvidia*"))
    nodes = Path("/sys/class/kfd/kfd/topology/nodes")
    with suppress(OSError):
        return nvidia or sum(path.read_text().strip() != "0" for path in nodes.glob("*/gpu_id"))
    return nvidia


@contextmanager
def taken(runtime: Runtime) -> Iterator[None]:
    """Hold a slot on every GPU the job needs, and show CUDA no others; wait while there is none.

    UserError if the job asks for more GPUs than it may use, or if torchrun started it on a busy one.
    """
    names, count = devices(), runtime.processes
    if runtime.device in ("cpu", "mps") or not names:
        yield
    elif "WORLD_SIZE" in os.environ:
        yield from _under_torchrun(names, runtime)
    elif ":" in runtime.device:  # cuda:1: this one, counted among those that are visible
        index = int(runtime.device.partition(":")[2])
        yield from _hold(names[index : index + 1], 1, runtime, show=False)  # machine.device refuses what is not there
    elif count > len(names):
        raise UserError(
            f"runtime.processes = {count}: a GPU each, but only {len(names)} can be used here ({', '.join(names)})"
        )
    elif "SLURM_JOB_ID" in os.environ and VISIBLE in os.environ and len(names) == count:
        yield  # Slurm gave exactly these to this job
    else:
        yield from _hold(names, count, runtime)


def _hold(names: Sequence[str], count: int, runtime: Runtime, show: bool = True) -> Iterator[None]:
    """Take `count` of the GPUs, waiting for them; `show`: set CUDA_VISIBLE_DEVICES to them."""
    held = _wait(names, count, runtime.cells_per_gpu)
    before = os.environ.get(VISIBLE)
    chosen = ",".join(name for name in names if name in held)
    if show and chosen:
        os.environ[VISIBLE] = chosen
        console.logger.info("%s=%s, of %s", VISIBLE, chosen, ",".join(names))
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
    """Process n of a machine uses its n-th GPU; the first one locks them all.

    It does not wait for a busy one: the others would give up meanwhile.
    """
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if LAUNCHED in os.environ or not first or "SLURM_JOB_ID" in os.environ:
        yield  # runtime.processes' launcher or Slurm holds them
        return
    held = _try(names[:count], count, runtime.cells_per_gpu) if count <= len(names) else {}
    if held is None:
        raise UserError(
            f"another job is using one of GPU {', '.join(names[:count])}; name free ones in {VISIBLE}, or let"
            f" runtime.processes = {count} wait for them"
        )
    try:
        yield
    finally:
        _release(held)


def _wait(names: Sequence[str], count: int, sharers: int) -> dict[str, Locks]:
    """`_try` until there are enough; the log and the status say that the job waits."""
    reminded = -REMIND
    while True:
        held = _try(names, count, sharers)
        if held is not None:
            heartbeat.beat()
            return held
        if time.monotonic() - reminded >= REMIND:
            what = "a free GPU" if count == 1 else f"{count} free GPUs"
            if reminded < 0:
                console.logger.info("waiting for %s: other jobs hold those of %s", what, ",".join(names))
            heartbeat.beat(waiting=what)
            reminded = time.monotonic()
        time.sleep(POLL)


def _try(names: Sequence[str], count: int, sharers: int) -> dict[str, Locks] | None:
    """Lock a slot on each of `count` GPUs, those with fewer jobs first; all or None."""
    held: dict[str, Locks] = {}
    gate = _lock("gate", fcntl.LOCK_EX)  # one job at a time looks
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
    """A GPU of one's own, or its slot of that number; None if another job has it."""
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
    """The number of a GPU that is named by its UUID, so that both names have one lock; other names as they are."""
    if name.startswith("GPU-"):
        for index, folder in enumerate(sorted(NVIDIA.glob("*"))):  # in the order of the bus, as CUDA counts
            with suppress(OSError):
                if f" {name}" in re.sub(r"\s+", " ", (folder / "information").read_text()):
                    return str(index)
    return name


def folder() -> Path:
    """Where the locks lie: one folder for all users of a machine, and one a Slurm job, whose GPUs count from 0."""
    chosen = os.environ.get(FOLDER)
    place = Path(chosen) if chosen else Path("/tmp/dualteacher-gpus")
    return place / f"slurm-{job}" if (job := os.environ.get("SLURM_JOB_ID")) else place


def _lock(name: str, how: int) -> int | None:
    """Lock a file of the folder; None if `how` does not wait and another process holds it."""
    path = folder() / re.sub(r"[^\w.-]", "_", name)
    try:
        descriptor = _open(path)
    except OSError as error:
        raise UserError(
            f"{path}: GPUs are shared out by locks here, and it cannot be opened ({error.strerror}); name another"
            f" folder on this machine in {FOLDER}"
        ) from error
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        os.close(descriptor)
        if error.errno in files.LOCKED:
            return None
        raise UserError(f"{path}: {error.strerror}; name a folder that has locks in {FOLDER}") from error
    return descriptor


def _open(path: Path) -> int:
    """For reading, which suffices for a lock: another user's file in a shared folder may not be opened otherwise."""
    if not path.parent.is_dir():
        for parent in (path.parent.parent, path.parent):
            with suppress(FileExistsError):
                parent.mkdir()
                parent.chmod(0o777 | stat.S_ISVTX)  # as /tmp: everyone's files, nobody deletes another's
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644))
    return os.open(path, os.O_RDONLY)
