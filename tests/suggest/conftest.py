"""A cell with an untrained student, which is as good as a trained one for choosing something."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from dualteacher import cli, settings
from dualteacher.data.pack import Pack
from dualteacher.models import saved
from dualteacher.models.segmenter import Segmenter, build
from dualteacher.system import files, paths


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def write_params(loaded: settings.Settings) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(loaded.model_dump(mode="json")))


def untrained(loaded: settings.Settings, cell: paths.Cell, seed: int = 0) -> Segmenter:
    """Write a student as training would; the partition has to be there."""
    train = paths.Dataset(cell.dataset).train
    network = build(loaded.model, Pack(train).num_classes, None, drop_path=0.0, seed=seed)
    torch.manual_seed(seed)
    torch.nn.init.normal_(network.head.classifier.weight, std=1.0)  # else it is equally unsure of all
    description: dict[str, Any] = {
        "cell": {"dataset": cell.dataset, "partition": cell.partition, "method": cell.method, "seed": cell.seed},
        "inference": loaded.inference.model_dump(mode="json"),
        "partition_sha256": files.sha256(paths.Partition(cell.dataset, cell.partition, cell.seed).table),
        "images_sha256": {"train": Pack(train).content_hash},
    }
    saved.save(cell.student, network, description)
    return network.eval()


def command(*arguments: str, code: int = 0) -> str:
    """What a command prints."""
    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


def options(cell: paths.Cell, count: int, by: str, output: str) -> list[str]:
    place = [("dataset", cell.dataset), ("partition", cell.partition), ("method", cell.method), ("seed", cell.seed)]
    given = [*place, ("count", count), ("by", by), ("output", output)]
    return ["suggest", *(word for key, value in given for word in (f"--{key}", str(value)))]


def table(output: str) -> list[dict[str, str]]:
    with open(Path(output) / "suggested.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def record(output: str) -> dict[str, Any]:
    return json.loads((Path(output) / "suggest.json").read_text())
