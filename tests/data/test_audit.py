"""`audit` says which images a partition labels, in numbers that were counted here by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from made_up import jpeg, known_lists, png

from dualteacher import cli
from dualteacher.commands import audit
from dualteacher.data import class_table, partition
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.pack import PackWriter, Sample
from dualteacher.data.sources import published
from dualteacher.system import paths
from dualteacher.workflow import presets

PLACE = paths.Dataset("ade20k")
PRESETS = Path(__file__).parents[2] / "presets"
IDS = [f"i{n}" for n in range(10)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Ten images of two pixels a class: the even ones show sea, the odd ones land, none shows ice."""
    monkeypatch.chdir(tmp_path)
    lines = {"first": IDS[:4], "second": IDS[2:6]}
    texts = {n: ("\n".join(i), "\n".join(set(IDS) - set(i))) for n, i in lines.items()}
    served = known_lists(monkeypatch, "ade20k", texts, {})
    raw = presets.load("tiny", PRESETS)
    raw["datasets"] = {"ade20k": {"source": "ade20k", "archive": None, "lists": True}}
    raw["partition"] = {"some": {"fraction": None, "count": 4, "list": None, "held_out": None}}
    raw["grid"] |= {"dataset": ["ade20k"], "partition": ["some"], "seed": [0, 1]}
    Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    classes = [ClassInfo(name, (9, 9, 9)) for name in ("sea", "land", "ice")]
    rows: dict[str, list] = {"split": [], "image_id": [], "class_index": [], "pixels": []}
    with PackWriter(PLACE.train, "ade20k", len(classes)) as writer:
        for n, image_id in enumerate(IDS):
            writer.add(Sample(image_id, jpeg(n), png(np.full((20, 28), n % 2, np.uint8)), 20, 28))
            for key, value in zip(rows, ("train", image_id, n % 2, 560), strict=True):
                rows[key].append(value)
    pq.write_table(pa.table(rows), PLACE.stats)
    PLACE.classes.write_text(json.dumps(class_table.as_json(classes)))
    return served


def fetch(served: dict[str, str]) -> None:
    for archive in published.list_archives("ade20k", partitions=True):
        path = PLACE.raw / archive.name  # type: ignore[attr-defined]
        path.parent.mkdir(parents=True, exist_ok=True)
        name, role, _ = path.name.split(".")
        path.write_text(served[f"{name}/{role}.txt"])


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dualteacher", "audit", "--dataset", "ade20k", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
    captured = capsys.readouterr()
    return captured.out if end.value.code == 0 else captured.err


def test_an_official_list_is_recognised_and_overlaps_are_counted(
    project: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(project)
    partition.write(paths.Partition("ade20k", "some", 0).table, IDS, IDS[:4])
    partition.write(paths.Partition("ade20k", "some", 1).table, IDS, [IDS[0], IDS[2], IDS[4]])
    first, second = said(capsys).split("ade20k, partition some, seed 1")
    assert "4 labelled and 6 unlabelled" in first and "equals the official list first" in first
    assert partition.list_hash(IDS[:4]) in first
    assert "equals none of the official lists" in second
    rows = {line.split()[0]: line.split() for line in second.splitlines() if line.strip()}
    assert rows["first"][1:4] == ["4", "2", "66.7%"] and rows["second"][1:4] == ["4", "2", "66.7%"]
    assert rows["sea"][1:] == ["1,680", "100.00%", "3", "60.0%"]
    assert rows["land"][1] == "0"
    assert "classes without a labelled pixel: land, ice" in second
    assert "classes without a labelled pixel: ice\n" in first
    only = said(capsys, "--partition", "some", "--seed", "1")
    assert only.startswith("ade20k, partition some, seed 1") and "seed 0" not in only


def test_the_same_images_are_told_once(project: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        partition.write(paths.Partition("ade20k", "some", seed).table, IDS, IDS[:4])
    text = said(capsys)
    assert text.count("class ") == 1 and "the same images as above" in text
    assert "no official lists to compare with; `lists: true`" in text


def test_what_is_not_there_is_one_line(project: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "create it with `python -m dualteacher partition --dataset ade20k --partition some --seed 0`" in said(capsys)
    assert "--partition other: not defined in params.yaml" in said(capsys, "--partition", "other")


def test_the_most_similar_list_comes_first() -> None:
    official = {"far": ["a", "x"], "near": ["a", "b", "x"], "none": ["y"], "large": [*"abcdefghij"]}
    found = audit.overlaps({"a", "b", "c"}, official)
    assert [overlap.name for overlap in found] == ["near", "large", "far", "none"]
    assert [overlap.shared for overlap in found] == [2, 3, 1, 0]
