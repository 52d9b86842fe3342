"""Trained networks on disk: whole, self-describing, the same bytes for the same weights."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from dualteacher.models import saved, weights
from dualteacher.models.segmenter import build
from dualteacher.system import paths
from dualteacher.system.errors import UserError

from .conftest import model, randomised

LITE = "tf_efficientnet_lite0"


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # all paths are relative to the project's folder


def test_a_saved_network_comes_back_whole(tmp_path: Path) -> None:
    section = model(backbone=LITE, architecture="deeplabv3plus", head_norm="group")
    network = randomised(build(section, 4, None, drop_path=0.3))
    network.mean.fill_(0.25)  # what the file says counts, not what timm says today
    saved.save(tmp_path / "student.safetensors", network, {"classes": [{"name": "Gewässer"}], "crop": 96})
    state = torch.get_rng_state()
    found, about = saved.load(tmp_path / "student.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert about["classes"] == [{"name": "Gewässer"}]
    assert (about["crop"], about["num_classes"]) == (96, 4)
    assert about["model"] == section.model_dump()
    assert found.settings == section
    assert not found.training
    image = torch.rand(2, 3, 64, 70)
    with torch.no_grad():
        assert torch.equal(found(image), network(image))


def test_equal_networks_are_equal_bytes(tmp_path: Path) -> None:
    network = build(model(), 3, None, drop_path=0.1, seed=3)
    about = {f"key{i}": i for i in range(20)}
    saved.save(tmp_path / "a", network, about)
    saved.save(tmp_path / "b", saved.load(tmp_path / "a")[0], dict(reversed(about.items())))
    saved.save(tmp_path / "c", build(model(), 3, None, drop_path=0.0, seed=3).train(), about)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_going_on_from_a_file_brings_drop_path_back(tmp_path: Path) -> None:
    saved.save(tmp_path / "warmup", build(model(dropout=0.0), 3, None, drop_path=0.0), {})
    network = saved.load(tmp_path / "warmup", drop_path=0.9)[0].train()
    image = torch.rand(4, 3, 32, 32)
    assert not torch.equal(network(image), network(image))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def another_format(path: Path) -> None:
    redescribe(path, format=99)


def no_description(path: Path) -> None:
    safetensors.torch.save_file(safetensors.torch.load_file(path), path)


def no_model(path: Path) -> None:
    redescribe(path, model={"backbone": "mit_b0"})


def other_kind(path: Path) -> None:
    redescribe(path, kind="backbone")


def other_head(path: Path) -> None:
    redescribe(path, num_classes=9)


def not_tensors(path: Path) -> None:
    path.write_text("<html>not found</html>")


def test_a_file_of_an_older_version_has_batch_normalisation(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    network = randomised(build(model(), 3, None, drop_path=0.0))
    saved.save(path, network, {})
    older = {key: value for key, value in model().model_dump().items() if key not in saved.LATER}
    redescribe(path, model=older, inference={"mode": "slide"})
    found, description = saved.load(path)
    assert description["inference"] == {"mode": "slide", "blend": "mean"}
    assert found.settings == model()
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in network.state_dict().items())


def redescribe(path: Path, **changes: Any) -> None:
    state = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["dualteacher"])
    del about["sha256"]  # as in a file of an older version
    safetensors.torch.save_file(state, path, metadata={"dualteacher": json.dumps(about | changes)})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncated, "truncated"),
        (not_tensors, "not a safetensors file"),
        (another_format, "file format 99"),
        (no_description, "not written by this program"),
        (no_model, "has no valid model settings"),
        (other_kind, "contains prepared backbone weights; expected a trained network"),
        (other_head, r"head\.classifier\.weight is \(3, 16, 1, 1\), not \(9, 16, 1, 1\)"),
        (Path.unlink, "no such file"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, damage: Any, words: str) -> None:
    path = tmp_path / "student.safetensors"
    saved.save(path, build(model(), 3, None, drop_path=0.0), {})
    damage(path)
    with pytest.raises(UserError, match=words) as caught:
        saved.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_description_cannot_hide_the_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reserved"):
        saved.save(tmp_path / "x", build(model(), 3, None, drop_path=0.0), {"format": 2})


def test_a_frozen_pretrained_backbone_is_named_by_its_hash(tmp_path: Path) -> None:
    lender = randomised(build(model(backbone=LITE), 3, None, drop_path=0.0))
    torch.save(lender.backbone.state_dict(), "mine.pth")  # type: ignore[union-attr]
    section = model(backbone=LITE, freeze="backbone", weights="mine.pth")
    weights.prepare_backbone(section, Path("mine.pth"))
    network = build(section, 3, paths.backbone_weights(LITE), drop_path=0.0, seed=1)
    slim, whole = tmp_path / "runs" / "student.safetensors", tmp_path / "whole.safetensors"
    saved.save(slim, network, {})
    saved.save(whole, saved.load(slim)[0], {"encoder": {"sha256": "stale"}}, whole=True)
    assert not any(key.startswith("backbone.") for key in safetensors.torch.load_file(slim))
    assert slim.stat().st_size < whole.stat().st_size / 3
    for path in (slim, whole):
        found, about = saved.load(path)
        assert ("encoder" in about) == (path == slim)
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in found.state_dict().items())
    paths.backbone_weights(LITE).rename("elsewhere")
    with pytest.raises(UserError, match="its frozen backbone is not in it"):
        saved.load(slim)
    randomised(lender)
    torch.save(lender.backbone.state_dict(), "mine.pth")  # type: ignore[union-attr]
    weights.prepare_backbone(section, Path("mine.pth"))
    with pytest.raises(UserError, match=r"not the backbone that .* was trained on") as caught:
        saved.load(slim)
    assert "\n" not in str(caught.value)
    assert saved.load(whole)[0].frozen == ("backbone",)


def test_a_random_or_partly_trained_backbone_is_saved_whole(tmp_path: Path) -> None:
    for changes in ({"freeze": "backbone"}, {"freeze": 3, "weights": "mine.pth"}):
        saved.save(tmp_path / "x", build(model(**changes), 3, None, drop_path=0.0), {})
        assert "encoder" not in saved.load(tmp_path / "x")[1]


def test_freezing_random_weights_is_said(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("dualteacher").propagate = True
    for freeze in ("none", "backbone"):
        section = model(backbone=LITE, freeze=freeze)
        weights.prepare_backbone(section, Path("nothing"))
        build(section, 3, paths.backbone_weights(LITE), drop_path=0.0)
        assert ("freezes random weights" in caplog.text) == (freeze == "backbone")
