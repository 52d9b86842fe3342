"""A small real pack, made here, and settings for it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dualteacher import settings as settings_module
from dualteacher.data import class_table, partition
from dualteacher.data.channels import RGB, Channels
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.pack import Pack, PackWriter, Sample, encode_array
from dualteacher.models import segmenter, weights
from dualteacher.system import files, paths
from dualteacher.training import loop
from dualteacher.workflow import presets

ROOT = Path(__file__).parent.parent.parent
CLASSES = [ClassInfo("ground", (120, 90, 60)), ClassInfo("disc", (200, 30, 30)), ClassInfo("bar", (30, 30, 200))]


class Stopped(Exception):
    pass


@contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """The run inside is killed instead of saving its checkpoint of this step."""
    original = loop.checkpoint

    def checkpoint(job, optimizer, progress):
        if progress.step == step:
            raise Stopped
        return original(job, optimizer, progress)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop, "checkpoint", checkpoint)
        yield


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A noisy ground with a red disc and a blue bar, and its mask."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    mask = np.zeros(size, np.uint8)
    mask[(y - rng.integers(10, height - 10)) ** 2 + (x - rng.integers(10, width - 10)) ** 2 < 80] = 1
    left = int(rng.integers(0, width - 8))
    mask[:, left : left + 6] = 2
    image = np.array([info.color for info in CLASSES], np.int64)[mask] + rng.integers(-25, 25, (*size, 3))
    return image.clip(0, 255).astype(np.uint8), mask


def write_pack(
    path: Path, count: int, seed: int, sizes=((48, 64), (56, 40)), unmasked: int = 0, channels: Channels = RGB
) -> Path:
    """Of other than three channels, the further ones repeat the first."""
    rng = np.random.default_rng(seed)
    files.write_json(path.with_name("classes.json"), class_table.as_json(CLASSES))
    with PackWriter(path, "toy", len(CLASSES), channels) as writer:
        for i in range(count):
            size = sizes[i % len(sizes)]
            image, mask = scene(rng, size)
            encoded = None if i >= count - unmasked else png(mask)
            data = png(image) if channels.count == 3 else encode_array(image[..., np.arange(channels.count) % 3])
            writer.add(Sample(f"image{i:03d}", data, encoded, *size))
    return path


def prepare(settings: settings_module.Settings, channels: Channels = RGB, checkpoint: Path = Path("nothing")) -> None:
    """Put prepared data, a partition and backbone weights, of this checkpoint or none, into the current folder."""
    dataset = paths.Dataset("toy")
    write_pack(dataset.train, 14, seed=1, unmasked=2, channels=channels)
    write_pack(dataset.val, 4, seed=2, channels=channels)
    pack = Pack(dataset.train)
    partition.write(paths.Partition("toy", "some", 0).table, pack.ids, pack.ids[:5])
    weights.prepare_backbone(settings.model, checkpoint)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def settings():
    """The tiny preset on a dataset called toy."""
    return toy_settings()


def toy_settings(**sections: dict) -> settings_module.Settings:
    raw = presets.load("tiny", ROOT / "presets")
    raw["datasets"] = {"toy": next(iter(raw["datasets"].values()))}
    raw["partition"] = {"some": {"fraction": None, "count": 5, "list": None, "held_out": None}}
    raw["grid"] |= {"dataset": ["toy"], "partition": ["some"], "method": ["supervised", "mean_teacher", "dual_teacher"],
                    "seed": [0]}  # fmt: skip
    raw["model"] |= {"backbone": "mobilenetv2_100", "weights": "none", "head_width": 16, "architecture": "segformer"}
    raw["batch"] |= {"labelled": 2, "unlabelled": 2, "crop": 32}
    raw["runtime"] |= {"device": "cpu", "checkpoint_minutes": 60, "workers": 0}
    dual = raw["methods"]["dual_teacher"]
    match = {"threshold": 0.3, "unlabelled_weight": 1.0, "ramp_steps": 0, "adaptive_floor": None, "alignment": 0.0}
    raw["methods"] |= {
        "fixmatch": match | {"kind": "fixmatch", "teacher": "student", "ema_decay": 0.996},
        "fixmatch_ema": match | {"kind": "fixmatch", "teacher": "ema", "ema_decay": 0.996},
        "unimatch": match | {"kind": "unimatch", "feature_dropout": 0.5},
        "unimatch_v2": match | {"kind": "unimatch_v2", "ema_decay": 0.996, "dropped": 0.5},
        "cps": {"kind": "cps", "unlabelled_weight": 1.0, "partner_seed": 1, "ramp_steps": 0},
        "dual_teacher_single": dual | {"teachers": 1},
        "dual_teacher_triple": dual | {"teachers": 3, "period": 2},
        "dual_teacher_steps": dual | {"period": 4, "period_unit": "step"},
        "dual_teacher_permanent": dual | {"temporary": False},
        "dual_teacher_balanced": dual
        | {"threshold": 0.5, "pixels": "confident", "adaptive_floor": 0.3, "alignment": 0.5, "period_at_least": 2},
        "dual_teacher_paste": dual | {"mixes": ["copy_paste"], "ramp_steps": 6},
    }
    for name, values in sections.items():
        raw[name] = raw[name] | values
    return settings_module.parse(raw)


def without_norm(monkeypatch) -> None:
    """Networks without batch normalisation: every such layer becomes a group normalisation."""
    original = segmenter.Segmenter.__init__

    def init(self, *arguments, **keywords) -> None:
        original(self, *arguments, **keywords)
        group_norms(self)

    monkeypatch.setattr(segmenter.Segmenter, "__init__", init)


def group_norms(module: nn.Module) -> None:
    """Replace every batch normalisation, keeping the activation that timm's carries."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            act = getattr(child, "act", nn.Identity())
            setattr(module, name, nn.Sequential(nn.GroupNorm(1, child.num_features), act))
        else:
            group_norms(child)
