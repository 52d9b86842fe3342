"""A plain ViT with the DPT head goes through training, resume, evaluation and predict, at logits of stride 2."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dualteacher.inference.predictor import Predictor
from dualteacher.models import saved
from dualteacher.settings import Settings
from dualteacher.stages import train, warmup
from dualteacher.system import paths

from .conftest import prepare, stopped_at, toy_settings
from .test_training import hashes, run_all


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Crops of 32 pixels, 2 by 2 patches; the position embeddings are those of 10 by 10."""
    monkeypatch.chdir(tmp_path)
    settings = toy_settings(model={"backbone": "test_vit", "architecture": "dpt"})
    prepare(settings)
    return settings


@pytest.mark.parametrize("method", ["dual_teacher", "unimatch", "unimatch_v2"])
def test_a_stopped_run_ends_with_the_same_bytes(project, method) -> None:
    expected = run_all(project, method)
    eager = project.model_copy(update={"runtime": project.runtime.model_copy(update={"checkpoint_minutes": 0.0})})
    cell = paths.Cell("toy", "some", method, 0)
    for path in (cell.student, cell.history):
        path.unlink()
    with stopped_at(3):
        train.run(eager, "toy", "some", method, 0)
    assert list(paths.CHECKPOINTS.rglob("step000000002.pt"))
    train.run(project, "toy", "some", method, 0)
    assert hashes(method) == expected


def test_training_moves_every_weight_and_odd_sizes_are_predicted(project) -> None:
    warmup.run(project, "toy", "some", 0)
    start = weights_of(project)
    train.run(project, "toy", "some", "dual_teacher", 0)
    segmenter, description = saved.load(paths.Cell("toy", "some", "dual_teacher", 0).student)
    assert description["stride"] == segmenter.stride == 2
    moved = [key for key, value in segmenter.named_parameters() if not torch.equal(value, start[key])]
    assert len(moved) == len(start)
    for size in ((61, 47), (32, 100)):
        with torch.no_grad():
            label = Predictor(segmenter, project.inference)(torch.rand(1, 3, *size))
        assert label.shape == (1, *size)


def weights_of(project: Settings) -> dict[str, torch.Tensor]:
    """The warm-up's parameters."""
    segmenter, _ = saved.load(paths.Cell("toy", "some", "dual_teacher", 0).warmup.student)
    return dict(segmenter.named_parameters())
