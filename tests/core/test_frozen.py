"""A frozen pretrained backbone goes through the stages: unchanged, stored once, resumed to the byte."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from dualteacher.inference.predictor import together
from dualteacher.methods.teaching import make_teacher
from dualteacher.models import saved, segmenter, tensors
from dualteacher.settings import Settings
from dualteacher.stages import evaluate, train, warmup
from dualteacher.system import paths
from dualteacher.training import loop

from .conftest import prepare, toy_settings

METHOD = "dual_teacher"
CELL = paths.Cell("toy", "some", METHOD, 0)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Weights of a small ViT in a file of the user's, and settings that freeze it."""
    monkeypatch.chdir(tmp_path)
    model = {"backbone": "test_vit", "architecture": "dpt", "weights": "vit.pth", "freeze": "backbone"}
    settings = toy_settings(
        model=model, train={"steps": 4}, runtime={"checkpoint_steps": 2}, evaluate={"weights": "average"}
    )
    network = segmenter.build(settings.model, 3, None, drop_path=0.0, seed=7)
    torch.save(network.backbone.state_dict(), "vit.pth")
    prepare(settings, checkpoint=Path("vit.pth"))
    return settings


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_probe_images_go_through_the_shared_backbone_once(mode: str) -> None:
    """Through a backbone of each network's own, one pass each, with the same results."""
    model = {"backbone": "test_vit", "architecture": "dpt", "freeze": "backbone"}
    inference = {"mode": mode, "window": 32, "stride": 32, "resize": None}
    settings = toy_settings(model=model, inference=inference)
    student = segmenter.build(settings.model, 3, None, drop_path=0.0, seed=0)
    teachers = [make_teacher(student, "running") for _ in range(2)]
    for number, network in enumerate([student, *teachers]):
        torch.manual_seed(number)
        torch.nn.init.normal_(network.head.classifier.weight)
    own = [copy.deepcopy(network) for network in (student, *teachers)]
    images = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    found, passes = {}, {}
    for name, networks in (("shared", [student, *teachers]), ("own", own)):
        seen: list[int] = []
        hooks = [
            backbone.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(len(inputs[0])))
            for backbone in {network.backbone for network in networks}
        ]
        predictors = together([network.eval() for network in networks], settings.inference)
        found[name] = [[predictor(part) for predictor in predictors] for part in images.split(1)]
        passes[name] = len(seen)
        for hook in hooks:
            hook.remove()
    assert passes["own"] == 3 * passes["shared"] > 0
    for ours, theirs in zip(found["shared"], found["own"], strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
        assert not torch.equal(ours[0], ours[1])


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_backbone(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    warmup.run(project, "toy", "some", 0)
    train.run(project, "toy", "some", METHOD, 0)
    expected = CELL.student.read_bytes()
    for path in (CELL.student, CELL.history):
        path.unlink()

    original, states = loop.checkpoint, []

    class Stop(Exception):
        pass

    def interrupt(job, optimizer, progress):
        if states:
            raise Stop
        states.append(original(job, optimizer, progress))
        return states[0]

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop, "checkpoint", interrupt)
        eager = project.model_copy(update={"runtime": project.runtime.model_copy(update={"checkpoint_steps": 1})})
        train.run(eager, "toy", "some", METHOD, 0)
    assert len(states[0]["others"]) == 3, "two teachers and the average"
    for state in (states[0]["student"], *states[0]["others"]):
        assert state and not any(key.startswith("backbone.") for key in state)
    train.run(project, "toy", "some", METHOD, 0)
    assert CELL.student.read_bytes() == expected
    evaluate.run(project, "toy", "some", METHOD, 0)
    assert "frozen, and not in the weights file" in CELL.model_card.read_text(encoding="utf-8")

    pretrained, _ = tensors.read(paths.backbone_weights("test_vit"), "backbone")
    for path in (CELL.warmup.student, CELL.student, *CELL.committee.glob("*.safetensors")):
        assert not any(key.startswith("backbone.") for key in tensors.read(path, "segmenter")[0])
        backbone = saved.load(path)[0].backbone.state_dict()
        assert all(torch.equal(value, pretrained[key]) for key, value in backbone.items())
