"""What the workflow engines ask of the project before the first job; see workflow/rules/common.smk."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import yaml

from dualteacher import settings
from dualteacher.machine import slots
from dualteacher.system import files, paths
from dualteacher.system.errors import UserError
from dualteacher.system.os_errors import broken_link


def check(config: dict[str, Any]) -> None:
    """Ends Snakemake with one line and exit code 2 where params.yaml is wrong or is not what it was given.

    The commands read params.yaml themselves, so what ``--config`` and ``--configfile`` change would be
    recorded, but not used.
    """
    try:
        settings.load()
        if config != yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")):
            raise UserError(
                "--config and --configfile are not for this workflow, whose commands read params.yaml:"
                " edit that, or replace it with `make use PRESET=name`"
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def clear_locks(folder: Path = Path(".snakemake")) -> None:
    """Let a run go on after a killed one, whose lock Snakemake would leave for `--unlock`; say if another is at work.

    Every Snakemake holds a lock of our own as long as it lives, which the system takes back however it ends. Other
    machines' processes may not be seen, so only this machine's locks are cleared.
    """
    with contextlib.suppress(OSError):  # a folder that cannot be written to
        folder.mkdir(exist_ok=True)
        held = files.hold(folder / "alive.lock")  # kept open until this process ends
        if held is None:
            print("note: another snakemake is at work in this folder; a second run has to wait", file=sys.stderr)
            return
        owner, here = os.read(held, 1000).decode(), socket.gethostname()
        if not any(folder.glob("locks/*")) or owner == here:
            shutil.rmtree(folder / "locks", ignore_errors=True)
            os.ftruncate(held, 0)
            os.pwrite(held, here.encode(), 0)


def set_environment() -> None:
    """Jobs run this interpreter's `python`, whatever is active, and say their progress in lines."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ["DUALTEACHER_PROGRESS"] = "lines"  # jobs side by side cannot share a bar


def watch(folder: str) -> str:
    """Path of a list of all files below `folder`, rewritten only where a name, size or time has changed.

    Snakemake sees no change inside a folder, and thousands of inputs would make it slow; DVC has the folder
    itself as a dependency.
    """
    if not Path(folder).exists():
        why = broken_link(Path(folder)) or "no such folder; see docs/own-data.md"
        print(f"error: watched = {folder}: {why}", file=sys.stderr)
        raise SystemExit(2)
    lines = []
    for place, inner, names in os.walk(folder):
        inner.sort()
        for name in sorted(names):
            path = Path(place, name)
            with contextlib.suppress(OSError):  # gone, or a link to nowhere
                status = path.stat()
                lines.append(f"{status.st_size} {status.st_mtime_ns} {path}\0")
    content = "\n".join(lines).encode("utf-8", "surrogateescape")
    if not paths.OWN_DATA_LIST.exists() or paths.OWN_DATA_LIST.read_bytes() != content:
        paths.OWN_DATA_LIST.parent.mkdir(exist_ok=True)
        with files.atomic(paths.OWN_DATA_LIST) as temporary:
            temporary.write_bytes(content)
    return str(paths.OWN_DATA_LIST)


def own_weights(model: dict[str, Any]) -> list[str]:
    """The user's own checkpoint, an input of the weights stage; none for other weights, and where it is missing.

    Of a missing file the stage itself says what to do.
    """
    own = settings.Model.model_validate(model).own_weights
    return [str(own[0])] if own is not None and files.is_file(own[0]) else []


def gpus(device: str) -> int:
    """GPU slots that a process of a training job takes: the profile's limit counts them."""
    if device != "auto":
        return int(device != "cpu")
    return int(bool(slots.devices()))  # as machine/device.py's auto: no mps


def gpu_slots(params: Path = Path("params.yaml")) -> int:
    """Jobs that this machine's GPUs take at once: profiles/default's limit. Which GPU is whose, machine/slots.py says.

    1 without any, for a device that only torch knows, and where params.yaml is wrong, which `check` says.
    """
    try:
        sharers = settings.load(params).runtime.cells_per_gpu
    except UserError:
        sharers = 1
    return max(1, len(slots.devices()) * sharers)
