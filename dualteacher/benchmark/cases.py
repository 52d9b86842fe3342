"""Benchmark cases (network, classes, crop, batch) and synthetic images for them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dualteacher import settings
from dualteacher.core import seeds
from dualteacher.data.loader import StepBatch
from dualteacher.data.pack import PackWriter, Sample
from dualteacher.settings import Settings
from dualteacher.workflow import presets

PATCHES = 4  # squares along the height of a synthetic image, for about as many regions as a real scene


@dataclass(frozen=True)
class Case:
    """One benchmark configuration."""

    model: str
    classes: int
    side: int  # of the crop, pixels
    labelled: int
    unlabelled: int
    architecture: str = "segformer"
    freeze: str = "none"  # as model.freeze: none, backbone, backbone_norms

    @property
    def name(self) -> str:
        network = self.model if self.architecture == "segformer" else f"{self.model} + {self.architecture}"
        frozen = "" if self.freeze == "none" else f", frozen: {self.freeze}"
        images = f"{self.labelled} + {self.unlabelled} images"
        return f"{network}, {self.classes} classes, {self.side}², {images}{frozen}"

    def settings(self) -> Settings:
        """presets/base.yaml with this case's network and batch.

        The threshold is 0, the worst case: every pixel counts. At the usual 0.95 an untrained teacher would keep no
        pixel, leaving the losses little to do.
        """
        raw = presets.load(presets.BASE)
        raw["model"] |= {"backbone": self.model, "weights": "none", "architecture": self.architecture}
        raw["model"]["freeze"] = self.freeze
        if self.architecture == "dpt":
            raw["model"]["head_width"] = 64
        elif self.model.startswith("mit_"):
            raw["model"]["head_width"] = 256
        raw["batch"] |= {"labelled": self.labelled, "unlabelled": self.unlabelled, "crop": self.side}
        raw["batch"] |= {"groups": 1, "accumulate": 1}
        raw["methods"]["dual_teacher"]["threshold"] = 0.0
        return settings.parse(raw, presets.BASE)

    def batch(self, seed: int = 0) -> StepBatch:
        """A batch like the loader's, without padding."""
        rng = seeds.generator(seed, "benchmark")
        pictures = [picture(rng, self.side, self.side, self.classes) for _ in range(self.labelled + self.unlabelled)]
        images = torch.from_numpy(np.stack([image for image, _ in pictures])).permute(0, 3, 1, 2).contiguous()
        masks = torch.from_numpy(np.stack([mask for _, mask in pictures]))
        factors = torch.from_numpy(rng.uniform(-1, 1, (len(pictures), 4)) * (0.1, 0.5, 0.5, 0.05)).float()
        factors[:, :3] += 1
        inside = torch.ones((self.unlabelled, self.side, self.side), dtype=torch.bool)
        first = slice(0, self.labelled), slice(self.labelled, None)
        return StepBatch(
            images[first[0]], masks[first[0]], factors[first[0]], images[first[1]], inside, factors[first[1]]
        )

    def write_pack(self, path: Path, count: int) -> None:
        """Write `count` JPEG images of aspect ratio 4:3, with masks."""
        rng = seeds.generator(0, "benchmark pack")
        height, width = self.side, self.side * 4 // 3
        with PackWriter(path, "benchmark", self.classes) as writer:
            for i in range(count):
                image, mask = picture(rng, height, width, self.classes)
                writer.add(Sample(f"image{i:05d}", _encoded(image, "JPEG"), _encoded(mask, "PNG"), height, width))


def picture(rng: np.random.Generator, height: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) and mask (H, W), uint8: squares of random classes in their colours, with noise."""
    side = max(1, height // PATCHES)
    grid = rng.integers(0, classes, (-(-height // side), -(-width // side)), np.uint8)
    enlarge = np.ones((side, side), np.uint8)
    mask = np.kron(grid, enlarge)[:height, :width]
    colors = seeds.generator(0, "benchmark colours").integers(16, 240, (classes, 3), np.uint8)
    image = colors[mask] + rng.integers(0, 16, (height, width, 3), np.uint8)
    return image, np.ascontiguousarray(mask)


def _encoded(array: np.ndarray, kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, quality=90)
    return out.getvalue()


LARGE = [Case(model, 150, side, 4, 4) for model in ("mit_b0", "mit_b1") for side in (128, 256, 512)]
DEFAULT = Case("tf_efficientnet_lite0", 10, 96, 8, 8)  # network and batch of the default preset
ALL = [*LARGE, DEFAULT]
GPU = [Case("mit_b1", 150, 512, 4, 4), Case("resnet50", 21, 512, 8, 8, "deeplabv3plus")]
QUICK = [Case("mit_b0", 150, 128, 4, 4), DEFAULT]
