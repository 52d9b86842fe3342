"""Run a stage or a check with its log file, status file and GPUs."""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from typing import Any

from dualteacher import settings
from dualteacher.cli.options import check_defined
from dualteacher.machine import gpu_slots, launcher
from dualteacher.system import console, heartbeat, paths
from dualteacher.workflow import stamps


def run_stage(stage: str, *arguments: str | int, names: dict[str, str] | None = None, on_gpus: bool = False) -> Any:
    """Call dualteacher.stages.<stage>.run(settings, *arguments); see run_logged."""
    return run_logged(f"dualteacher.stages.{stage}", stage, *arguments, names=names, on_gpus=on_gpus)


def run_logged(
    module: str, log_name: str, *arguments: str | int, names: dict[str, str] | None = None, on_gpus: bool = False
) -> Any:
    """Return `module`.run(settings, *arguments), logged to a file.

    names: names that params.yaml must define. on_gpus: wait for free GPUs first, and start `runtime.processes`
    processes (then the result is None).
    """
    stamps.check()
    loaded = settings.load()
    check_defined(loaded, names or {})
    log = paths.log(log_name, *arguments)
    with ExitStack() as gpus:
        with heartbeat.alone(log):
            console.start(log)
            with heartbeat.during(log):
                if on_gpus:
                    gpus.enter_context(gpu_slots.taken(loaded.runtime))
                if not (on_gpus and launcher.needed(loaded.runtime.processes)):
                    return importlib.import_module(module).run(loaded, *arguments)
        from dualteacher import cli  # cli imports this module

        launcher.run(cli.main, loaded.runtime.processes)  # rank 0 takes over the log and its lock
