"""Details of each run on the page: parameters, hashes, commands and log, so the page can be shared on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dualteacher.reporting import tables
from dualteacher.reporting.results import Results, Run, spoken
from dualteacher.system import paths

TAIL = 16  # last lines of a log to show
LONGEST = 3000  # characters of them at most
HASHES = {
    "labelled images": "list_sha256",
    "all images": "pack_sha256",
    "partition": "partition_sha256",
    "training images": "train_sha256",
    "weights": "weights_sha256",
    "parameters": "params_fingerprint",
}


@dataclass(frozen=True)
class Sheet:
    """Contents of a run's dialog."""

    target: str  # anchor in the page
    title: str
    place: str
    facts: Sequence[tuple[str, str]]
    hashes: Sequence[tuple[str, str]]
    parameters: str  # YAML
    changed: Sequence[str]  # parameters whose value in params.yaml has changed since
    commands: Sequence[str]
    logs: Sequence[tuple[str, str]]  # path, last lines


def target(cell: paths.Cell) -> str:
    """Anchor of a run's sheet in the page."""
    return f"run-{cell.dataset}-{cell.partition}-{cell.method}-{cell.seed}"


def sheets(results: Results) -> list[Sheet]:
    return [_sheet(run, results) for run in results.runs]


def _sheet(run: Run, results: Results) -> Sheet:
    cell, metrics, cost = run.cell, run.metrics, run.cost
    known = run.provenance | metrics
    facts = [
        (f"mIoU, {tables.CHOSEN[metrics['selected']]} epoch", f"{tables.percent(float(metrics['miou']))} %"),
        ("best epoch", _best(metrics)),
        ("pixel accuracy", f"{tables.percent(float(metrics['pixel_accuracy']))} %"),
        ("images", f"{run.provenance['labelled']} labelled, {run.provenance['unlabelled']} unlabelled"),
        ("training", f"{metrics['last_epoch']} epochs, {cost.get('steps', '?')} steps, {_time(cost)}"),
        ("device", f"{cost['device']}, {cost['threads']} thread{'' if cost['threads'] == 1 else 's'}"),
    ]
    parameters = metrics.get("parameters")
    arguments = f"--dataset {cell.dataset} --partition {cell.partition} --method {cell.method} --seed {cell.seed}"
    names = (cell.dataset, cell.partition, cell.method, cell.seed)
    files = [paths.log("train", *names), paths.log("evaluate", *names)]
    return Sheet(
        target(cell),
        f"{spoken(cell.method)}, seed {cell.seed}",
        f"{cell.dataset}, {cell.partition}",
        facts,
        [(label, str(known[key])) for label, key in HASHES.items() if known.get(key)],
        _yaml(parameters) if parameters else "",
        _changed(parameters, results) if parameters else [],
        [f"python -m dualteacher {stage} {arguments}" for stage in ("train", "evaluate")],
        [(path.as_posix(), tail(path)) for path in files],
    )


def _best(metrics: dict[str, Any]) -> str:
    if metrics["best_miou"] is None:
        return tables.NONE
    return f"{tables.percent(float(metrics['best_miou']))} % at epoch {metrics['best_epoch']}"


def _time(cost: dict[str, Any]) -> str:
    return tables.duration(float(cost["seconds"]))


def _yaml(parameters: dict[str, Any]) -> str:
    return yaml.safe_dump(parameters, sort_keys=True, allow_unicode=True, default_flow_style=None, width=88)


def _changed(parameters: dict[str, Any], results: Results) -> list[str]:
    """Parameters of the run that differ from the current params.yaml: "train.steps: 300, now 600"."""
    everything = results.settings.model_dump(mode="json")
    if everything["runtime"]["precision"] == "auto":  # the run records what that chose
        everything["runtime"]["precision"] = parameters.get("runtime", {}).get("precision")
    now = everything | {"method": everything["methods"].get(parameters["cell"][2])}
    found = []
    for section, values in parameters.items():
        if section in now and isinstance(values, dict) and isinstance(now[section], dict):
            found += [
                f"{section}.{key}: {value}, now {now[section].get(key, 'absent')}"
                for key, value in values.items()
                if value != now[section].get(key)
            ]
    return found


def tail(path: Path) -> str:
    """Last lines of a log; "" if the file is missing (run made on another machine, or log deleted)."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-TAIL:])[-LONGEST:]
