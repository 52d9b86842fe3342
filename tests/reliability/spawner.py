"""Runs the program's commands in forked children: importing it once saves seconds a run. See conftest.Spawner.

Reads requests as JSON lines and answers each with the child's exit code (negative: the signal that ended it).
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import sys
import time
import traceback

import torch

from dualteacher import cli, commands, stages
from tests.reliability import hooks

for package in (commands, stages):
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
torch.set_num_threads(1)  # and nothing is computed here: a child of a process with a thread pool may hang


def main() -> None:
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run(request)
        code = wait(child, request.get("seconds"))
        print(json.dumps({"code": code}), flush=True)


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
    code = 1
    try:
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
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
