"""Small networks of the kinds that docs/encoders.md lists, frozen and not: train, resume, evaluate, predict, export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from dualteacher.export import network, onnx_file, parity
from dualteacher.inference.predictor import Predictor
from dualteacher.models import conversion, saved, timm_backbones
from dualteacher.models.segmenter import build
from dualteacher.stages import evaluate, train, warmup
from dualteacher.system import paths

from .conftest import prepare, stopped_at, toy_settings

# backbone: head, and the sizes that timm makes it with; test_plain_transformer.py and test_frozen.py have a plain ViT
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_small_patch14_dinov2": ("dpt", {"embed_dim": 48, "depth": 4, "num_heads": 4}),
    "swin_tiny_patch4_window7_224": (
        "segformer",
        {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 4)},
    ),
    "test_convnext": ("dpt", {}),
    "mobilenetv4_conv_small_035": ("segformer", {}),
}
CELL = paths.Cell("toy", "some", "dual_teacher", 0)


@pytest.fixture
def section(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The `model` section for a backbone, which timm makes small."""
    architecture, sizes = ENCODERS[request.param]
    create, caches = timm.create_model, (timm_backbones._free, timm_backbones.whole, conversion._timm_names)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **(sizes | options)))
    yield {"backbone": request.param, "architecture": architecture}
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("freeze", ["none", "backbone"])
@pytest.mark.parametrize("section", ENCODERS, indirect=True)
def test_it_trains_resumes_to_the_byte_evaluates_and_predicts(section, freeze, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = toy_settings(
        model=section | {"freeze": freeze}, train={"steps": 4}, warmup={"steps": 1}, runtime={"checkpoint_steps": 1}
    )
    prepare(settings)
    warmup.run(settings, "toy", "some", 0)
    train.run(settings, "toy", "some", CELL.method, 0)
    expected = CELL.student.read_bytes(), CELL.history.read_bytes()
    for path in (CELL.student, CELL.history):
        path.unlink()

    with stopped_at(3):
        train.run(settings, "toy", "some", CELL.method, 0)
    assert list(paths.CHECKPOINTS.rglob("step000000002.pt"))
    train.run(settings, "toy", "some", CELL.method, 0)
    assert (CELL.student.read_bytes(), CELL.history.read_bytes()) == expected

    evaluate.run(settings, "toy", "some", CELL.method, 0)
    assert CELL.metrics.exists()
    trained, start = (saved.load(path)[0] for path in (CELL.student, CELL.warmup.student))
    moved = [
        name for (name, one), other in zip(trained.named_parameters(), start.parameters(), strict=True)
        if not torch.equal(one, other)
    ]  # fmt: skip
    assert any(name.startswith("head.") for name in moved)
    assert any(name.startswith("backbone.") for name in moved) == (freeze == "none")
    for size in ((61, 47), (33, 90)):
        with torch.no_grad():
            assert Predictor(trained, settings.inference)(torch.rand(1, 3, *size)).shape == (1, *size)


@pytest.mark.slow
@pytest.mark.parametrize("section", ["test_convnext", "mobilenetv4_conv_small_035"], indirect=True)
def test_convolutions_in_onnx_take_any_size(section, tmp_path: Path) -> None:
    """tests/export has the Vision Transformers."""
    segmenter = build(toy_settings(model=section).model, 5, None, drop_path=0.0, seed=0).eval()
    onnx_file.write(tmp_path / "model.onnx", onnx_file.from_program(network.program(segmenter)), {})
    run, expected = onnx_file.runner(tmp_path / "model.onnx"), parity.torch_runner(network.Logits(segmenter))
    for shape in ((1, 3, 64, 96), (3, 3, 160, 64)):
        image = np.random.default_rng(0).random(shape, np.float32)
        wanted = expected(image)
        assert np.abs(run(image) - wanted).max() < 1e-3 * wanted.std()
