"""What a job says of itself in a small file beside its log, for `python -m dualteacher status`.

The file is there while the job runs, and stays, with the error, when it fails; a job that ends well
removes it. It lies in logs/, which neither engine looks at. A lock beside it keeps a second process from the same job.
"""

from __future__ import annotations

import json
import os
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dualteacher.system import console, files
from dualteacher.system.errors import Interrupted, UserError

SILENCE = 600  # seconds after which a job on another machine, whose process cannot be seen, counts as ended

_file: Path | None = None  # of the job that this process is


def place(log: Path) -> Path:
    """The file that belongs to a log."""
    return log.with_suffix(".state.json")


@contextmanager
def alone(log: Path) -> Iterator[None]:
    """Hold the job's lock, which the system takes back from a killed process; UserError if somebody else has it."""
    if not console.leads():  # torchrun's first process holds it for all
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    held = files.hold(log.with_suffix(".lock"))
    if held is None:
        said = read(log)
        who = f"process {said['pid']} on {said['host']}" if said else "another process"
        raise UserError(f"{log}: {who} is at this very job; wait until it has ended, or end it")
    try:
        yield
    finally:
        os.close(held)


@contextmanager
def during(log: Path) -> Iterator[None]:
    """Keep the file while the job runs; an error is written into it and into the log, then goes on its way."""
    global _file
    _file = place(log)
    beat()
    try:
        yield
    except BaseException as error:
        told = _words(error)
        console.record(told)
        beat(error=told.splitlines()[-1], stopped=isinstance(error, Interrupted | KeyboardInterrupt))
        raise
    else:
        if console.leads():
            _file.unlink(missing_ok=True)
    finally:
        _file = None


def beat(**facts: Any) -> None:
    """Replace what the job says of itself; nothing outside `during`, and no word if the disk refuses."""
    if _file is None or not console.leads():
        return
    said = {"pid": os.getpid(), "host": socket.gethostname(), "at": time.time(), **facts}
    temporary = _file.with_suffix(".tmp")
    with suppress(OSError):  # not files.atomic: it need not survive a power cut, and must cost nothing
        _file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(said), encoding="utf-8")
        os.replace(temporary, _file)


def read(log: Path) -> dict[str, Any] | None:
    """What a job last said, with "running" (bool) added; None if it ended well or was never started."""
    try:
        said: dict[str, Any] = json.loads(place(log).read_text(encoding="utf-8"))
        here = said["host"] == socket.gethostname()
        alive = _exists(said["pid"]) if here else time.time() - said["at"] < SILENCE
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return said | {"running": "error" not in said and alive}


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _words(error: BaseException) -> str:
    """The error as the log should have it; its last line says what it is."""
    if isinstance(error, UserError):
        return f"error: {error}"
    if isinstance(error, Interrupted):
        return f"stopped: {error}"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command goes on from here"
    return "".join(traceback.format_exception(error)).rstrip()
