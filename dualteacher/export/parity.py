"""Compare an exported file with the network, on real images in several sizes and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np
import torch
import torch.nn.functional as F

from dualteacher.data.pack import Pack
from dualteacher.evaluation.confusion import ConfusionMatrix
from dualteacher.export.network import MULTIPLE, SMALLEST, Size
from dualteacher.inference.predictor import network_size, to_tensor
from dualteacher.settings import Inference
from dualteacher.system import console

IMAGES = 16  # images to compare on
SHARE = 0.999  # minimum share of pixels with the same class
Runner = Callable[[np.ndarray], np.ndarray]  # images (B, bands, H, W) float32 → logits (B, C, H, W) or classes


@dataclass
class Parity:
    """Agreement of two models' predictions."""

    images: int = 0
    pixels: int = 0
    equal: int = 0
    largest: float | None = None  # absolute difference of logits; None if a model returns classes

    def add(self, expected: np.ndarray, found: np.ndarray) -> None:
        """Add a batch: logits (B, C, H, W) or classes (B, H, W) from each model."""
        if expected.ndim == found.ndim == 4:
            self.largest = max(self.largest or 0.0, float(np.abs(expected - found).max()))
        same = classes(expected) == classes(found)
        self.images += len(same)
        self.pixels += same.size
        self.equal += int(same.sum())

    @property
    def share(self) -> float:
        """Share of pixels with the same class."""
        return self.equal / self.pixels

    @property
    def good(self) -> bool:
        return self.share >= SHARE

    def numbers(self) -> dict[str, float | None]:
        """The entry in export.json."""
        return {"images": self.images, "equal_pixels": self.share, "largest_logit_difference": self.largest}

    def __str__(self) -> str:
        # Rounded down, so that 100 % means all pixels.
        said = f"{np.floor(self.share * 1e5) / 1e3:.3f} % of {self.pixels:,} pixels in {self.images} images equal"
        return said if self.largest is None else f"{said}, largest logit difference {self.largest:.2g}"


def classes(output: np.ndarray) -> np.ndarray:
    """Logits or classes → classes (B, H, W)."""
    return output.argmax(1) if output.ndim == 4 else output


def torch_runner(module: Callable[[torch.Tensor], torch.Tensor]) -> Runner:
    """Wrap a torch module as a Runner."""

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return run


def compare(expected: Runner, found: Runner, batches: Sequence[np.ndarray], largest: float | None = None) -> Parity:
    """Compare two models on every batch; `largest`: difference of logits, if already known."""
    parity = Parity(largest=largest)
    for batch in batches:
        parity.add(expected(batch), found(batch))
    return parity


def batches(pack: Pack, inference: Inference, size: Size | None = None) -> list[np.ndarray]:
    """Evenly spaced images of the pack: one alone, the rest in pairs of equal size, and the last batch enlarged.

    size: of all of them, if the file takes only one.
    """
    images = [prepare(pack.image(i), inference, size) for i in spread(len(pack), IMAGES)]
    made = [images[0]]
    rest = images[1:]
    while rest:
        same = [image for image in rest if image.shape == rest[0].shape][:2]
        rest = [image for image in rest if not any(image is other for other in same)]
        made.append(np.concatenate(same))
    if size is None:
        height, width = made[-1].shape[2:]
        larger = (height + MULTIPLE, width + 2 * MULTIPLE)
        made.append(F.interpolate(torch.from_numpy(made[-1]), larger, mode="bilinear", align_corners=False).numpy())
    return made


def spread(number: int, count: int) -> list[int]:
    """At most `count` evenly spaced indices below `number`."""
    step = max(1, -(-number // count))
    return list(range(0, number, step))


def prepare(image: np.ndarray, inference: Inference, size: Size | None = None) -> np.ndarray:
    """Levels (H, W, bands) → float32 (1, bands, H', W'), the network's input; sides ≥ 64 and multiples of 32."""
    if size is None:
        wanted = inference.model_copy(update={"multiple": lcm(MULTIPLE, inference.multiple)})
        height, width = network_size((image.shape[0], image.shape[1]), wanted)
        size = (max(height, SMALLEST), max(width, SMALLEST))
    pixels = to_tensor([image], torch.device("cpu"))
    if size != image.shape[:2]:
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
    return pixels.numpy()


def miou(run: Runner, pack: Pack, inference: Inference, name: str, size: Size | None = None) -> float:
    """mIoU on all images with masks, each predicted whole; classes are resized by nearest neighbour."""
    matrix = ConfusionMatrix(pack.num_classes)
    with_mask = [i for i in range(len(pack)) if pack.has_mask(i)]
    for i in console.progress(with_mask, f"mIoU of {name}", unit="image"):
        mask = pack.mask(i)
        assert mask is not None
        found = torch.from_numpy(classes(run(prepare(pack.image(i), inference, size))).astype(np.int64))
        if found.shape[1:] != mask.shape:
            found = F.interpolate(found[None].float(), mask.shape, mode="nearest-exact")[0].long()
        matrix.update(mask[None], found)
    return matrix.scores()["miou"]


def calibration(pack: Pack, inference: Inference, count: int, size: Size | None = None) -> Iterator[np.ndarray]:
    """Training images to calibrate int8 ranges."""
    return (prepare(pack.image(i), inference, size) for i in spread(len(pack), count))
