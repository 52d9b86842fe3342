"""A small network as a run leaves it, and images to predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dualteacher import cli, settings
from dualteacher.data.channels import RGB, Channels
from dualteacher.models import saved
from dualteacher.models.segmenter import Segmenter, build
from dualteacher.workflow import presets

COLORS = [[10, 20, 30], [200, 0, 0], [0, 0, 90]]
PRESETS = Path(__file__).parents[2] / "presets"


def save_network(
    path: str, seed: int = 0, channels: Channels = RGB, model: dict[str, Any] | None = None, **inference: Any
) -> Segmenter:
    """An untrained network of three classes, whose scores are far enough apart for several to win somewhere."""
    loaded = settings.parse(presets.load("tiny", PRESETS))
    described = loaded.model.model_copy(update=model or {})
    segmenter = build(described, 3, None, drop_path=0.0, seed=seed, channels=channels).eval()
    description = {
        "classes": [{"index": i, "name": f"class {i}", "color": color} for i, color in enumerate(COLORS)],
        "inference": loaded.inference.model_dump(mode="json") | inference,
    }
    saved.save(Path(path), segmenter, description)
    return segmenter


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`run/student.safetensors`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    save_network("run/student.safetensors")
    return Path("run")


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth blobs of colour, (H, W, 3) uint8."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def picture(path: str, *size: int, seed: int = 0, **options: object) -> np.ndarray:
    """Save an image of (width, height) = `size`; its pixels before they are encoded."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    made = pixels(size[1], size[0], seed)
    Image.fromarray(made).save(path, **options)  # type: ignore[arg-type]
    return made


def predict(*arguments: str, code: int = 0) -> str:
    """Run the command with the run's folder; what it said."""
    done = CliRunner().invoke(cli.app, ["predict", "run", *arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def read(path: str) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened)


def counted(monkeypatch: pytest.MonkeyPatch, before: Callable[[], object] = lambda: None) -> list[tuple[int, ...]]:
    """The shapes that are shown to the network from now on."""
    shapes: list[tuple[int, ...]] = []
    forward = Segmenter.forward

    def noted(self: Segmenter, image: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(image.shape))
        before()
        return forward(self, image)

    monkeypatch.setattr(Segmenter, "forward", noted)
    return shapes
