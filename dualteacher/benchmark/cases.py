"""What is measured: a network, a number of classes, a size, a batch; and made-up images for it."""

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
from dualteacher.data.pack import ClassInfo, PackWriter, Sample
from dualteacher.settings import Settings
from dualteacher.workflow import presets

PATCHES = 4  # squares that a made-up image is high: about as many regions as a scene has


@dataclass(frozen=True)
class Case:
    """One line of the benchmark."""

    model: str
    classes: int
    side: int  # of the crop, pixels
    labelled: int
    unlabelled: int

    @property
    def name(self) -> str:
        return f"{self.model}, {self.classes} classes, {self.side}², {self.labelled} + {self.unlabelled} images"

    def settings(self) -> Settings:
        """presets/base.yaml with this case's network and batch.

        The threshold is 0: an untrained teacher is never sure, so with the usual 0.95 no pixel would count and
        the losses would have little to do. Here every pixel counts, which is the most work there can be.
        """
        raw = presets.load(presets.BASE)
        raw["model"] |= {"backbone": self.model, "weights": "none"}
        if self.model.startswith("mit_"):
            raw["model"]["head_width"] = 256
        raw["batch"] |= {"labelled": self.labelled, "unlabelled": self.unlabelled, "crop": self.side}
        raw["batch"] |= {"groups": 1, "accumulate": 1}
        raw["methods"]["dual_teacher"]["threshold"] = 0.0
        return settings.parse(raw, presets.BASE)

    def batch(self, seed: int = 0) -> StepBatch:
        """A batch as the loader makes it, without padding."""
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
        """A split of `count` JPEG images, a third wider than they are high, with masks."""
        colours = [ClassInfo(f"class {i}", (i, i, i)) for i in range(self.classes)]
        rng = seeds.generator(0, "benchmark pack")
        height, width = self.side, self.side * 4 // 3
        with PackWriter(path, "benchmark", colours) as writer:
            for i in range(count):
                image, mask = picture(rng, height, width, self.classes)
                writer.add(Sample(f"image{i:05d}", _encoded(image, "JPEG"), _encoded(mask, "PNG"), height, width))


def picture(rng: np.random.Generator, height: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Squares of random classes, in their classes' colours with a little noise, (H, W, 3) and (H, W) uint8."""
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
DEFAULT = Case("tf_efficientnet_lite0", 10, 96, 8, 8)  # the default run's network and batch
ALL = [*LARGE, DEFAULT]
QUICK = [Case("mit_b0", 150, 128, 4, 4), DEFAULT]
