"""A process that has imported torch, Snakemake and DVC, and forks a child for each command: warm.py FOLDER.

FOLDER/bin holds programs for PATH that hand `python -m dualteacher`, `snakemake` and `dvc` over to it, with their
arguments, environment, folder and streams, and pass on signals; anything else they run themselves. That saves seconds
per command. The project's own modules are imported anew each time, from the folder of the command.

A command has a process group of its own, which gets the signals; $CLIENT_GROUP is the group of its program. Snakemake
puts the folder of sys.executable before PATH: FOLDER/bin for it, so its jobs run here too.
"""

from __future__ import annotations

import atexit
import gc
import importlib.util
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

LIBRARIES = (
    *("setuptools", "torch", "timm", "numba", "pandas", "pyarrow.parquet", "scipy", "matplotlib.figure", "pydantic"),
    *("yaml", "typer", "jinja2", "snakemake.cli", "snakemake.workflow", "snakemake.scheduling.job_scheduler"),
    *("dvc.cli.parser", "dvc.repo.reproduce", "dvc.repo.experiments.queue.workspace", "scmrepo.git"),
    *("scipy.linalg", "scipy.stats", "scipy.ndimage", "matplotlib.backends.backend_agg"),
    *("numba.core.registry", "numba.typed", "numba.np.arrayobj", "tqdm.contrib.logging", "requests"),
)
PROGRAMS = ("python", "snakemake", "dvc")
CLIENT = """\
#!{python} -IS
import json, os, signal, socket, sys
name, folder, python = os.path.basename(sys.argv[0]), {folder!r}, {python!r}
words = sys.argv[1:]
if name == "python" and words[:2] == ["-m", "snakemake"]:
    name, words = "snakemake", words[2:]
if name == "python" and words[:2] != ["-m", "dualteacher"]:
    os.execv(python, [python, *words])
server = socket.socket(socket.AF_UNIX)
server.connect(folder + "/socket")
environment = dict(os.environ, CLIENT_GROUP=str(os.getpgid(0)))
request = {{"name": name, "words": words, "folder": os.getcwd(), "environment": environment}}
socket.send_fds(server, [b"streams"], [0, 1, 2])
server.sendall(json.dumps(request).encode() + b"\\n")
answer = server.makefile()
child = int(answer.readline())
def forward(number, frame):
    try:
        os.killpg(child, signal.SIGCONT)
        os.killpg(child, number)
    except ProcessLookupError:
        pass
signal.signal(signal.SIGTERM, forward)
if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, forward)
code = int(answer.readline() or 1)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@cache
def programs() -> Path:
    """FOLDER/bin of a process that lasts as long as this one."""
    folder = Path(tempfile.mkdtemp(prefix="dualteacher-warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = [sys.executable, __file__, str(folder)]
    server = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # ends its stdin, and with it the process
    assert server.stdout is not None and server.stdout.readline() == "ready\n"
    return folder / "bin"


def main() -> None:
    folder = Path(sys.argv[1])
    del sys.path[0]  # this file's folder
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    for name in PROGRAMS:
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(CLIENT.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    print("ready", flush=True)
    while listener in select.select([listener, sys.stdin], [], [])[0]:  # stdin ends with the tests' process
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return serve(connection, folder / "bin")
        connection.close()
        while reap():
            pass


def reap() -> bool:
    """True if there was a child that had ended."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0] > 0
    except ChildProcessError:
        return False


def serve(connection: socket.socket, programs: Path) -> None:
    """Run one command in a child; answer with its exit code. Its process group dies with its client."""
    streams = socket.recv_fds(connection, len(b"streams"), 3)[1]
    request = json.loads(connection.makefile().readline())
    child = os.fork()
    if child == 0:
        connection.close()
        return run(request, streams, programs)
    os.setpgid(child, child)
    for stream in streams:
        os.close(stream)
    connection.sendall(f"{child}\n".encode())
    ended = os.pidfd_open(child)
    if ended not in select.select([ended, connection], [], [])[0]:
        os.killpg(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        connection.sendall(f"{code}\n".encode())
    finally:
        os._exit(0)


def run(request: dict, streams: list[int], programs: Path) -> None:
    """Become the command, up to what a start of Python does with the environment."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    python, name, words = request["name"] == "python", request["name"], request["words"]
    sys.argv = sys.orig_argv = [name, *words]
    sys.path[:0] = [*([str(Path.cwd())] if python else []), *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
    sys.modules.pop("sitecustomize", None)
    if importlib.util.find_spec("sitecustomize"):
        importlib.import_module("sitecustomize")
    if python:
        sys.argv = ["dualteacher", *words[2:]]
        runpy.run_module("dualteacher", run_name="__main__", alter_sys=True)
    else:
        if name == "snakemake":
            sys.executable = str(programs / "python")
        sys.exit(importlib.import_module(f"{name}.cli").main())


if __name__ == "__main__":
    main()
