"""Runs the program's commands in forked children: importing it once saves seconds a run. See conftest.Spawner.

Reads requests as JSON lines and answers each with the child's exit code (negative: the signal that ended it). `each`
in a request: what is its own for every one of several children that run at once; the first exit code that is not 0.
"""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path


def load() -> None:
    """All that the children would load, parse or compile. Not for loader processes, which import this module."""
    import torch

    from dualteacher import commands, stages
    from dualteacher.workflow import precompile, sources

    for package in (commands, stages):
        for module in pkgutil.iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")
    torch.set_num_threads(1)  # a child of a process with a thread pool may hang
    precompile.kernels()
    for stage in ("warmup", "train"):
        sources.closure(stage, Path(__file__).parents[2])


def main() -> None:
    load()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        Path(request["output"]).write_bytes(b"")
        children = [start(request | own) for own in request.get("each", [{}])]
        codes = [wait(child, request.get("seconds")) for child in children]
        print(json.dumps({"code": next(filter(None, codes), 0)}), flush=True)


def start(request: dict) -> int:
    """A child that runs the request; its process id."""
    child = os.fork()
    if child == 0:
        run(request)
    return child


def wait(child: int, seconds: float | None) -> int:
    """The child's exit code; killed after so many seconds, if it is still there."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while deadline is not None and time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    if deadline is not None:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(request: dict) -> None:
    """In the child: the commands, one after another, until one fails."""
    from dualteacher import cli
    from tests.reliability import hooks

    code = 1
    try:
        output = os.open(request["output"], os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request["folder"])
        os.environ.update(request.get("environment", {}))
        hooks.install(request)
        for command in request["commands"]:
            sys.argv = ["dualteacher", *command]
            try:
                cli.main()
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            else:
                code = 0
            if code:
                break
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
