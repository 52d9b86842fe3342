"""A job's status file, next to its log, for `python -m dualteacher status`.

It exists while the job runs. A job that succeeds removes it; a job that fails leaves it, with the error. It is in
logs/, which neither engine tracks. A lock file next to it keeps a second process from running the same job.
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

from dualteacher.system import console, files, os_errors
from dualteacher.system.errors import RESUME, Interrupted, UserError

SILENCE = 600  # seconds without an update after which a job on another machine counts as ended

_file: Path | None = None  # status file of this process's job


def place(log: Path) -> Path:
    """The status file of a log."""
    return log.with_suffix(".state.json")


@contextmanager
def alone(log: Path) -> Iterator[None]:
    """Hold the job's lock, which the kernel releases if the process dies; UserError if another process holds it."""
    if not console.is_rank_zero():  # rank 0 holds it for all
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    held = files.hold(log.with_suffix(".lock"))
    if held is None:
        status = read(log)
        who = f"process {status['pid']} on {status['host']}" if status else "another process"
        raise UserError(f"{log}: {who} is already running this job; wait for it, or end it")
    try:
        yield
    finally:
        os.close(held)


@contextmanager
def during(log: Path) -> Iterator[None]:
    """Keep the status file while the job runs; write an error to it and to the log, then re-raise it."""
    global _file
    _file = place(log)
    beat()
    try:
        yield
    except BaseException as error:
        text = _describe(error)
        console.record(text)
        beat(error=text.splitlines()[-1], stopped=isinstance(error, Interrupted | KeyboardInterrupt))
        raise
    else:
        if console.is_rank_zero():
            _file.unlink(missing_ok=True)
    finally:
        _file = None


def beat(**facts: Any) -> None:
    """Rewrite the status file with `facts`. Does nothing outside `during`; I/O errors are ignored."""
    if _file is None or not console.is_rank_zero():
        return
    status = {"pid": os.getpid(), "host": socket.gethostname(), "at": time.time(), **facts}
    temporary = _file.with_suffix(".tmp")
    with suppress(OSError):  # not files.atomic: it need not survive a power cut, and must cost nothing
        _file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(status), encoding="utf-8")
        os.replace(temporary, _file)


def read(log: Path) -> dict[str, Any] | None:
    """The content of the status file plus "running" (bool); None if the job succeeded or never started."""
    try:
        status: dict[str, Any] = json.loads(place(log).read_text(encoding="utf-8"))
        here = status["host"] == socket.gethostname()
        alive = _exists(status["pid"]) if here else time.time() - status["at"] < SILENCE
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return status | {"running": "error" not in status and alive}


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _describe(error: BaseException) -> str:
    """The error for the log; the last line is its summary."""
    if isinstance(error, UserError):
        return f"error: {error}"
    if isinstance(error, Interrupted):
        return f"stopped: {error}"
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted; {RESUME}"
    text = "".join(traceback.format_exception(error)).rstrip()
    return f"{text}\nerror: {os_errors.explain(error)}" if isinstance(error, OSError) else text
