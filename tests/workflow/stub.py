"""Stands in for dualteacher/__main__.py: the same commands and files, written in a moment.

Every output's content is a hash of what its stage declares (inputs, parameters, sources), so a stale file shows.
The last run commands are listed in ran.txt.
"""

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from dualteacher.system import paths

CELL = ("dataset", "partition", "method", "seed")
ALL_TRAINING = ["model", "batch", "augment", "loss", "optimizer", "inference"]


def parse(words: list[str]) -> tuple[argparse.Namespace, str]:
    """The command line's arguments and the stage's name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage")
    parser.add_argument("--weights", action="store_true")
    for name in CELL:
        parser.add_argument(f"--{name}")
    args = parser.parse_args(words)
    return args, "weights" if args.weights else args.stage


def log_of(args: argparse.Namespace, stage: str) -> Path:
    return paths.log(stage, *(value for name in CELL if (value := getattr(args, name)) is not None))


def main() -> None:
    args, stage = parse(sys.argv[1:])
    params = yaml.safe_load(Path("params.yaml").read_text())
    log = log_of(args, stage)
    with open("ran.txt", "a") as file:
        print(log.stem if stage == "report" else f"{stage} {log.stem}", file=file)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("stub\n")
    inputs, sections, outputs = STAGES[stage](args, params)
    digest = hashlib.sha256(json.dumps([params[section] for section in sections]).encode())
    code = yaml.safe_load(Path("workflow/code.yaml").read_text())[stage]
    own = [f"dualteacher/methods/{params['methods'][args.method]['kind']}.py"] if stage == "train" else []
    for path in [*inputs, *map(Path, code + own)]:
        digest.update(path.read_bytes())
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.name} {digest.hexdigest()}\n")
    if stage == "report":
        report(params, int(digest.hexdigest()[:6], 16) / 16**6)


def report(params: dict, score: float) -> None:
    """What `dvc metrics` and `dvc plots` read has to be real."""
    methods = params["grid"]["method"]
    paths.SUMMARY.write_text(json.dumps({method: {"miou": round(score, 4)} for method in methods}, indent=2) + "\n")
    with open(paths.REPORT / "curves.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["dataset", "partition", "method", "seed", "step", "val_miou"])
        for method in methods:
            writer.writerows(["d", "p", method, 0, step, score * step / 3] for step in (1, 2, 3))


def download(a, p):
    return [], ["datasets"], [paths.Dataset(a.dataset).manifest]


def weights(a, p):
    return [], ["model"], [paths.backbone_weights(p["model"]["backbone"])]


def prepare(a, p):
    data = paths.Dataset(a.dataset)
    outputs = [data.train, data.val, data.classes, data.stats, data.findings, data.contact_sheet]
    return [data.manifest], ["datasets"], outputs


def partition(a, p):
    data, split = paths.Dataset(a.dataset), paths.Partition(a.dataset, a.partition, a.seed)
    return [data.train, data.stats], ["partition"], [split.table, split.provenance]


def warmup(a, p):
    data, split = paths.Dataset(a.dataset), paths.Partition(a.dataset, a.partition, a.seed)
    cell = paths.Cell(a.dataset, a.partition, "warmup", a.seed)
    inputs = [data.train, data.val, split.table, paths.backbone_weights(p["model"]["backbone"])]
    return inputs, [*ALL_TRAINING, "warmup"], [cell.student, cell.history, cell.cost, cell.alarms]


def train(a, p):
    data, split = paths.Dataset(a.dataset), paths.Partition(a.dataset, a.partition, a.seed)
    cell = paths.Cell(a.dataset, a.partition, a.method, a.seed)
    inputs = [data.train, data.val, split.table, cell.warmup.student]
    outputs = [cell.student, cell.history, cell.cost, cell.alarms, cell.calibration, cell.snapshots]
    return inputs, [*ALL_TRAINING, "mixing", "train", "methods"], outputs


def evaluate(a, p):
    data, split = paths.Dataset(a.dataset), paths.Partition(a.dataset, a.partition, a.seed)
    cell = paths.Cell(a.dataset, a.partition, a.method, a.seed)
    inputs = [data.val, data.classes, cell.student, cell.history, split.table]
    outputs = [
        cell.metrics,
        cell.per_class,
        cell.per_image,
        cell.confusion,
        cell.model_card,
        cell.gallery,
        cell.pictures,
    ]
    return inputs, ["inference", "evaluate"], outputs


def report_files(a, p):
    grid = p["grid"]
    also = grid["also"]
    products = [(grid["partition"], grid["method"])]
    products += [(extra["partition"], extra["method"]) for extra in (also["bound"], also["ablation"])]
    cells = [
        paths.Cell(dataset, partition, method, seed)
        for dataset in grid["dataset"]
        for partitions, methods in products
        for partition in partitions
        for method in methods
        for seed in grid["seed"]
    ]
    inputs = [path for name in grid["dataset"] for path in (paths.Dataset(name).classes, paths.Dataset(name).val)]
    inputs += {paths.Partition(cell.dataset, cell.partition, cell.seed).provenance: None for cell in cells}
    for cell in cells:
        inputs += [cell.alarms, cell.calibration, cell.snapshots, cell.per_image]
        inputs += [cell.history, cell.cost, cell.metrics, cell.per_class, cell.confusion, cell.gallery, cell.pictures]
    names = ["table.csv", "table.md", "table.tex", "table.parquet", "table_seeds.parquet", "index.html", "curves.csv"]
    names += [f"{name}.csv" for name in ("comparisons", "class_gains", "calibration", "hardest", "alarms")]
    outputs = [paths.REPORT / name for name in names] + list(figures(grid)) + [paths.SUMMARY]
    return inputs, ["grid", "report"], outputs


def figures(grid: dict) -> Iterator[Path]:
    """As dualteacher.reporting.figures.files_of, which would take long to import."""
    kinds = ["curves", "methods", "teachers", "pseudo_labels", "confusion", "per_class"]
    kinds += ["class_gains", "calibration", "hardest", "snapshots"]
    for suffix in ("svg", "png"):
        for d in grid["dataset"]:
            yield paths.REPORT / "figures" / f"{d}-scores.{suffix}"
            for p in grid["partition"]:
                yield from (paths.REPORT / "figures" / f"{d}-{p}-{kind}.{suffix}" for kind in kinds)


STAGES = {
    "download": download,
    "weights": weights,
    "prepare": prepare,
    "partition": partition,
    "warmup": warmup,
    "train": train,
    "evaluate": evaluate,
    "report": report_files,
}

if __name__ == "__main__":
    main()
