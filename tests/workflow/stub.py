"""Stands in for dualteacher/__main__.py: the same commands and files, written in a moment.

Every output's content is a hash of what its stage declares (inputs, parameters, sources), so a stale file shows.
The last run commands are listed in ran.txt.
"""

import argparse
import csv
import hashlib
import json
import sys
from pathlib import Path

import yaml

from dualteacher import settings
from dualteacher.commands import links
from dualteacher.reporting import figure_names
from dualteacher.system import paths
from dualteacher.workflow import contracts, engines

CELL = ("dataset", "partition", "method", "seed")


def parse(words: list[str]) -> tuple[argparse.Namespace, str]:
    """The command line's arguments and the stage's name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage")
    parser.add_argument("--weights", action="store_true")
    parser.add_argument("--link")
    for name in CELL:
        parser.add_argument(f"--{name}")
    args = parser.parse_args(words)
    return args, "weights" if args.weights else args.stage


def log_of(args: argparse.Namespace, stage: str) -> Path:
    return paths.log(stage, *(value for name in CELL if (value := getattr(args, name)) is not None))


def main() -> None:
    args, stage = parse(sys.argv[1:])
    if args.link:
        with open("ran.txt", "a") as file:
            print(f"links {args.link}", file=file)
        return links.run(settings.load(), args.link)
    params = yaml.safe_load(Path("params.yaml").read_text())
    log = log_of(args, stage)
    with open("ran.txt", "a") as file:
        print(log.stem if stage == "report" else f"{stage} {log.stem}", file=file)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("stub\n")
    inputs, outputs = files(stage, args, params)
    sections = dict.fromkeys(key.split(".")[0] for key in contracts.BY_STAGE[stage].params if "runtime" not in key)
    if stage in ("download", "prepare"):  # whose outputs have no names and colours of classes
        params["datasets"] = {name: engines.without_looks(one) for name, one in params["datasets"].items()}
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


def files(stage: str, args: argparse.Namespace, params: dict) -> tuple[list[Path], list[Path]]:
    """(inputs, outputs) of one job, as the stage's contract has them."""
    contract = contracts.BY_STAGE[stage]
    if stage != "report":
        return [fill(path, vars(args), params) for path in contract.inputs], [
            fill(path, vars(args), params) for path in contract.outputs
        ]
    grid = settings.Grid(**params["grid"])
    places = [dict(zip(CELL, (*row, seed), strict=True)) for row in grid.rows for seed in grid.seed]
    inputs = dict.fromkeys(fill(path, place, params) for place in places for path in contract.inputs)
    return list(inputs), [*contract.outputs, *figure_names.files_of(grid)]


def fill(pattern: Path, place: dict, params: dict) -> Path:
    """{dataset} by the job's place, {model.backbone} by the parameters."""
    text = str(pattern).replace("{model.backbone}", params["model"]["backbone"])
    return Path(text.format(**place))


if __name__ == "__main__":
    main()
