"""Snakemake sees every change in a folder of one's own images, and other datasets are left alone by it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from dualteacher.system import paths
from dualteacher.workflow import engines

FOLDER = {
    "source": "folder", "folder": "own_data/mine", "images": "images", "masks": "masks", "mask_suffix": "",
    "unlabelled": None, "validation": {"share": 0.5, "images": None, "masks": None}, "block": "image",
    "classes": [{"name": str(i), "color": [i, i, i], "value": i} for i in range(2)], "ignore": [], "on_error": "stop",
}  # fmt: skip


def test_the_list_is_rewritten_with_every_change_and_only_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / "own_data/mine/it's {a}\nb.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"1")
    (tmp_path / os.fsdecode(b"own_data/\xff.jpg")).write_bytes(b"1")

    def changed() -> bool:
        before = paths.OWN_DATA_LIST.read_bytes() if paths.OWN_DATA_LIST.exists() else None
        time = paths.OWN_DATA_LIST.stat().st_mtime_ns if before else 0
        assert engines.watch("own_data") == str(paths.OWN_DATA_LIST)
        rewritten = paths.OWN_DATA_LIST.stat().st_mtime_ns != time
        assert rewritten == (paths.OWN_DATA_LIST.read_bytes() != before)
        return rewritten

    assert changed() and not changed()
    photo.write_bytes(b"12")
    assert changed() and not changed()
    os.utime(photo, (1, 1))
    assert changed() and not changed()
    (tmp_path / "own_data/mine/new.jpg").write_bytes(b"")
    assert changed() and not changed()
    photo.unlink()
    assert changed() and not changed()
    (tmp_path / "own_data/nowhere.jpg").symlink_to("nothing")
    assert not changed()
    with pytest.raises(SystemExit):
        engines.watch("elsewhere")


@pytest.mark.slow
def test_a_new_photo_reruns_its_dataset_alone(project) -> None:
    made = project()
    settings = yaml.safe_load((made.root / "params.yaml").read_text())
    made.edit("datasets", settings["datasets"] | {"mine": FOLDER})
    made.edit("grid", settings["grid"] | {"dataset": ["bluemarble", "mine"]})
    manifests = [str(paths.Dataset(name).manifest) for name in ("bluemarble", "mine")]
    commands = (["snakemake", "--quiet", "all", "--", *manifests], ["dvc", "repro", "--quiet", "download@mine"])
    for number, command in enumerate(commands):
        made(*command)
        made.ran()
        made(*command)
        assert made.ran() == []
        photo = made.root / f"own_data/mine/images/{number}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.write_bytes(b"a photo")
        made(*command)
        assert made.ran() == ["download mine"], command[0]


@pytest.mark.slow
def test_dvc_sees_a_new_photo_behind_a_link(project) -> None:
    made = project()
    params = yaml.safe_load((made.root / "params.yaml").read_text())
    made.edit("datasets", params["datasets"] | {"mine": FOLDER})
    made.edit("grid", params["grid"] | {"dataset": ["mine"]})
    made.edit("links", {"link_1": "own_data/mine/images"})
    elsewhere, link = made.root / "elsewhere", made.root / "own_data/mine/images"
    elsewhere.mkdir()
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere)
    for number, expected in enumerate([["download mine", "links link_1"]] * 2):
        (elsewhere / f"{number}.jpg").write_bytes(b"a photo")
        made("dvc", "repro", "--quiet", "download@mine")
        assert made.ran() == expected
    made("dvc", "repro", "--quiet", "download@mine")
    assert made.ran() == []


def test_a_checkpoint_of_ones_own_is_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a{b}.pth").touch()
    model = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["model"]

    def inputs(weights: str) -> list[str]:
        return engines.own_weights(model | {"weights": weights})

    assert [inputs(weights) for weights in ("wheel", "timm", "none", "own.pth", "x" * 300, "a{b}.pth")] == [[]] * 6
    for name in ("own.pth", "run#3.pth"):
        Path(name).touch()
        assert inputs(name) == inputs(f"{name}#teacher") == [name]


@pytest.mark.slow
def test_a_changed_checkpoint_is_prepared_again(project) -> None:
    made = project()
    made.edit("model.weights", "my own.pth#teacher")
    own = made.root / "my own.pth"
    own.write_bytes(b"1")
    backbone = yaml.safe_load((made.root / "params.yaml").read_text())["model"]["backbone"]
    command = ["snakemake", "--quiet", "all", "--", str(paths.backbone_weights(backbone))]
    made(*command)
    assert made.ran() == ["weights weights"]
    made(*command)
    assert made.ran() == []
    own.write_bytes(b"12")
    made(*command)
    assert made.ran() == ["weights weights"]
