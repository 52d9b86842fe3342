"""Functions that Snakemake calls before the first job; see workflow/rules/common.smk."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from dualteacher import settings
from dualteacher.machine import gpu_slots as slots
from dualteacher.settings import strict_yaml
from dualteacher.system import files, paths, walk
from dualteacher.system.errors import UserError
from dualteacher.system.os_errors import broken_link
from dualteacher.workflow import stamps


def check(config: dict[str, Any] | None = None) -> None:
    """Exit with code 2 and a one-line message if params.yaml is invalid or differs from Snakemake's config, if given.

    Likewise if the project was written by another version of the package.

    The commands read params.yaml themselves, so changes by ``--config`` and ``--configfile`` would be recorded but
    not used.
    """
    try:
        stamps.check()
        settings.load()
        if config is not None and config != strict_yaml.load(Path("params.yaml")):
            raise UserError(
                "--config and --configfile are not supported, since all commands read params.yaml:"
                " edit it, or replace it with `python -m dualteacher use NAME`"
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def clear_locks(folder: Path = Path(".snakemake")) -> None:
    """Remove the stale lock of a killed Snakemake, which would need `--unlock`; print a note if one is still running.

    Each Snakemake process holds a file lock, which the operating system releases however the process ends. Processes
    on other machines may be invisible, so only this machine's locks are removed.
    """
    with contextlib.suppress(OSError):  # read-only folder
        folder.mkdir(exist_ok=True)
        held = files.hold(folder / "alive.lock")  # kept open until this process ends
        if held is None:
            print("note: another snakemake is running in this folder; wait until it has finished", file=sys.stderr)
            return
        owner, here = os.read(held, 1000).decode(), socket.gethostname()
        if not any(folder.glob("locks/*")) or owner == here:
            shutil.rmtree(folder / "locks", ignore_errors=True)
            os.ftruncate(held, 0)
            os.pwrite(held, here.encode(), 0)


def set_environment() -> None:
    """Make jobs use this interpreter's `python`, whatever is on PATH, and log progress as lines."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ["DUALTEACHER_PROGRESS"] = "lines"  # parallel jobs cannot share a progress bar


def watch(folder: str) -> str:
    """Write a list of all files below `folder`, only if a name, size or time has changed; return its path.

    Snakemake does not detect changes inside a folder, and thousands of inputs would make it slow. DVC depends on the
    folder itself. Links to folders are followed (system/walk.py).
    """
    if not Path(folder).exists():
        why = broken_link(Path(folder)) or "no such folder; see docs/own-data.md"
        print(f"error: watched = {folder}: {why}", file=sys.stderr)
        raise SystemExit(2)
    content = walk.encoded(walk.listing(folder))
    if not paths.OWN_DATA_LIST.exists() or paths.OWN_DATA_LIST.read_bytes() != content:
        paths.OWN_DATA_LIST.parent.mkdir(exist_ok=True)
        with files.atomic(paths.OWN_DATA_LIST) as temporary:
            temporary.write_bytes(content)
    return str(paths.OWN_DATA_LIST)


def own_weights(model: dict[str, Any]) -> list[str]:
    """The user's own checkpoint as an input of the weights stage; [] for other weights.

    Also [] for a missing file, which the stage reports, and for a name with braces, which Snakemake reads as wildcards.
    """
    own = settings.Model.model_validate(model).own_weights
    return [str(own[0])] if own is not None and files.is_file(own[0]) and "{" not in str(own[0]) else []


def without_looks(dataset: dict[str, Any]) -> dict[str, Any]:
    """A dataset's settings without the classes' names and colours, on which no image, mask or index depends."""
    if "classes" not in dataset:
        return dataset
    return dataset | {"classes": [entry["value"] for entry in dataset["classes"]]}


def gpus(device: str) -> int:
    """GPU slots that each process of a job occupies; the profile limits their total."""
    if device != "auto":
        return int(device != "cpu")
    return int(bool(slots.devices()))  # like auto in machine/device.py: excludes mps


def gpu_slots(params: Path = Path("params.yaml")) -> int:
    """Number of jobs that this machine's GPUs can run at once, the limit in profiles/default.

    At least 1, for devices that only torch knows. An invalid params.yaml is reported by `check`. machine/gpu_slots.py
    assigns GPUs to jobs.
    """
    try:
        sharers = settings.load(params).runtime.cells_per_gpu
    except UserError:
        sharers = 1
    return max(1, len(slots.devices()) * sharers)
