"""Show the state of every run in the grid (`status`): waiting, running, done, stopped or failed.

Judged by outputs and status files only. Whether an output is up to date with params.yaml, `make plan` shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dualteacher.settings import Grid, Settings
from dualteacher.system import console, heartbeat, paths
from dualteacher.system.errors import RESUME

KILLED = f"killed, or the machine went down; {RESUME}"
LAST_LINES = 5  # of a failed job's log


@dataclass(frozen=True)
class State:
    """The state of one run, with details, and the log if a stage failed."""

    cell: paths.Cell
    state: str  # waiting, running, done, stopped (on request, can resume), failed
    words: str
    log: Path | None = None


def run(settings: Settings) -> None:
    """Print one line per run, the last log lines of failed ones, and the number of runs in each state."""
    states = [look(cell) for cell in cells(settings.grid)]
    rows = [(s.cell.dataset, s.cell.partition, s.cell.method, str(s.cell.seed), s.state, s.words) for s in states]
    head = ("dataset", "partition", "method", "seed", "state", "")
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row, state in zip([head, *rows], [None, *states], strict=True):
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
        if state and state.log:
            print(f"    {state.log} ends with:")
            print("".join(f"    | {line}\n" for line in last_lines(state.log)), end="")
    counts = {
        name: sum(s.state == name for s in states) for name in ("done", "running", "stopped", "failed", "waiting")
    }
    print(f"{len(states)} runs: " + ", ".join(f"{number} {name}" for name, number in counts.items() if number))


def cells(grid: Grid) -> Iterator[paths.Cell]:
    """For each dataset and partition: the warm-ups, then the methods' runs."""
    for dataset in grid.dataset:
        for partition in grid.partitions:
            for method in ("warmup", *grid.methods_on(partition)):
                yield from (paths.Cell(dataset, partition, method, seed) for seed in grid.seed)


def look(cell: paths.Cell) -> State:
    """The state of a run, from its jobs' status files and outputs."""
    place = (cell.dataset, cell.partition)
    if cell.method == "warmup":
        jobs = {cell.student: paths.log("warmup", *place, cell.seed)}
    else:
        jobs = {
            cell.student: paths.log("train", *place, cell.method, cell.seed),
            cell.metrics: paths.log("evaluate", *place, cell.method, cell.seed),
        }
    for output, log in jobs.items():
        said = heartbeat.read(log)
        if said is None:
            continue
        if said["running"]:
            return State(cell, "running", _progress(log.parent.name, said))
        if not output.exists() or output.stat().st_mtime < said["at"]:  # else made later, or by `dvc checkout`
            words = said.get("error", KILLED)
            if said.get("stopped"):
                return State(cell, "stopped", f"{log.parent.name}: {words.removeprefix('stopped: ')}")
            return State(cell, "failed", f"{log.parent.name}: {words}", log)
    if all(output.exists() for output in jobs):
        return State(cell, "done", ", ".join(filter(None, (_score(cell), _alarms(cell)))))
    return State(cell, "waiting", _next(cell))


def last_lines(log: Path) -> list[str]:
    """The last lines of a log, or a note that it is missing."""
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:] or ["(empty)"]
    except OSError:
        return ["(no log)"]


def _progress(stage: str, said: dict) -> str:
    """«train: step 120/300, loss 0.512, 58 s left»."""
    if "waiting" in said:
        return f"{stage}: waiting for {said['waiting']}"
    words = []
    if "step" in said:
        words.append(f"step {said['step']}/{said['steps']}")
    if "loss" in said:
        words.append(f"loss {said['loss']:.3f}")
    if "seconds_left" in said:
        words.append(f"{console.duration(said['seconds_left'])} left")
    if said.get("alarms"):
        words.append(f"alarm: {' and '.join(said['alarms'])}")
    return f"{stage}: {', '.join(words)}" if words else stage


def _score(cell: paths.Cell) -> str:
    if cell.method == "warmup":
        return ""
    try:
        return f"mIoU {json.loads(cell.metrics.read_text(encoding='utf-8'))['miou']:.4f}"
    except (ValueError, KeyError, TypeError):
        return f"{cell.metrics}: cannot be read"


def _alarms(cell: paths.Cell) -> str:
    """Alarms that training raised; "" if none, or for runs of older versions, which have no such file."""
    try:
        alarms = json.loads(cell.alarms.read_text(encoding="utf-8"))["alarms"]
        names = [alarm["name"] for alarm in alarms]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f"alarm: {' and '.join(names)}" if names else ""


def _next(cell: paths.Cell) -> str:
    """What a waiting run needs next."""
    if cell.student.exists():
        return "trained, not yet evaluated"
    if not paths.Partition(cell.dataset, cell.partition, cell.seed).table.exists():
        return "for its data"
    if cell.method != "warmup" and not cell.warmup.student.exists():
        return "for its warm-up"
    return ""
