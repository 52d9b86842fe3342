"""A positive control: scenes composed from real textures, on which unlabelled images should help.

The textures are eight photographs from scikit-image, in grey. A scene is a Voronoi mosaic; each region has one texture
with its own scale, angle, contrast, gamma and colour cast. docs/control.md explains why self-training should help here.
Training scenes use the left half of each photograph, validation scenes the right half.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dualteacher import settings
from dualteacher.core import seeds
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.fetch import Archive
from dualteacher.data.fetch.manifest import verify
from dualteacher.data.formats import images
from dualteacher.data.pack import Sample
from dualteacher.data.sources import Split
from dualteacher.system import files
from dualteacher.system.errors import UserError

SCENE_SEED = 2024  # fixed, so that every run sees the same scenes

# class, file in skimage/data, its sha256, colour
TABLE: list[tuple[str, str, str, tuple[int, int, int]]] = [
    ("brick", "brick.png", "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf", (178, 74, 58)),
    ("grass", "grass.png", "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89", (86, 160, 66)),
    ("gravel", "gravel.png", "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12", (140, 132, 120)),
    (
        *("stars", "hubble_deep_field.jpg"),
        *("3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4", (44, 58, 122)),
    ),
    ("tissue", "ihc.png", "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef", (196, 122, 176)),
    ("moon", "moon.png", "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577", (206, 202, 188)),
    ("print", "page.png", "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3", (240, 226, 170)),
    ("coins", "coins.png", "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba", (214, 164, 60)),
]


@dataclass(frozen=True)
class Photograph:
    """A photograph of the installed scikit-image. Implements `fetch.Archive`."""

    file: str
    sha256: str

    def fetch(self, folder: Path) -> Path:
        """The installed file, verified and copied to `folder`."""
        spec = importlib.util.find_spec("skimage")
        if spec is None or spec.origin is None:
            raise UserError("datasets with source textures need scikit-image: install the locked packages (make setup)")
        path = Path(spec.origin).parent / "data" / self.file
        if not path.is_file():
            raise UserError(f"{path}: scikit-image's photograph is missing; install the locked packages again")
        verify(path, self.sha256)
        copy = folder / self.file
        with files.atomic(copy) as temporary:
            shutil.copyfile(path, temporary)
        return copy

    def describe(self) -> dict[str, str]:
        return {"package": "scikit-image", "member": f"skimage/data/{self.file}"}


class Textures:
    """Implements `sources.Source`."""

    def __init__(self, options: settings.Textures) -> None:
        self.options = options

    def classes(self) -> list[ClassInfo]:
        return [ClassInfo(name, color) for name, _, _, color in TABLE]

    def archives(self) -> list[Archive]:
        return [Photograph(file, sha256) for _, file, sha256, _ in TABLE]

    def open(self, paths: Sequence[Path]) -> TexturesContent:
        return TexturesContent(self.options, [np.asarray(Image.open(path).convert("L")) for path in paths])


class TexturesContent:
    """Scenes composed on demand, each from its own seed. Implements `sources.Content`."""

    def __init__(self, options: settings.Textures, photographs: Sequence[np.ndarray]) -> None:
        self.options = options
        halves = [(photo[:, : photo.shape[1] // 2], photo[:, photo.shape[1] // 2 :]) for photo in photographs]
        self._halves = {"train": [left for left, _ in halves], "val": [right for _, right in halves]}

    def ids(self, split: Split) -> list[str]:
        return [f"{split}{i:04d}" for i in range(self.options.train if split == "train" else self.options.validation)]

    def samples(self, split: Split) -> Iterator[Sample]:
        for image_id in self.ids(split):
            image, mask = self.compose(split, image_id)
            yield Sample(image_id, images.png(image), images.png(mask), self.options.size, self.options.size)

    def compose(self, split: Split, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """A scene (S, S, 3) uint8 and its mask (S, S) uint8."""
        rng = seeds.generator(SCENE_SEED, "textures", image_id)
        mask = mosaic(rng, self.options.size, self.options.regions, len(TABLE))
        image = np.zeros((*mask.shape, 3), np.uint8)
        for index in np.unique(mask):
            shown = view(rng, self._halves[split][index], self.options.size)
            image[mask == index] = light(rng, shown, self.options.variation)[mask == index]
        return image, mask


def mosaic(rng: np.random.Generator, size: int, regions: int, classes: int) -> np.ndarray:
    """A Voronoi mosaic of 2 … `regions` different classes, (size, size) uint8."""
    count = int(rng.integers(2, regions + 1))
    centres = rng.uniform(0, size, (count, 2))
    y, x = np.mgrid[:size, :size]
    distance = (y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2
    return rng.permutation(classes)[:count].astype(np.uint8)[distance.argmin(-1)]


def view(rng: np.random.Generator, photograph: np.ndarray, size: int) -> np.ndarray:
    """A random square of a grey photograph, scaled, rotated by quarter turns and flipped; (size, size) uint8."""
    side = int(min(photograph.shape) * rng.uniform(0.45, 1.0))
    top, left = (int(rng.integers(0, length - side + 1)) for length in photograph.shape)
    part = Image.fromarray(photograph[top : top + side, left : left + side])
    part = part.resize((size, size), Image.Resampling.BILINEAR)
    turned = np.rot90(np.asarray(part), int(rng.integers(4)))
    return turned[:, ::-1] if rng.random() < 0.5 else turned


def light(rng: np.random.Generator, gray: np.ndarray, variation: float) -> np.ndarray:
    """Random gamma, contrast, brightness and colour cast, scaled by `variation`; (S, S, 3) uint8."""
    value = (gray / 255.0) ** np.exp(variation * rng.uniform(-0.7, 0.7))
    contrast, lift = np.exp(variation * rng.uniform(-0.8, 0.3)), variation * rng.uniform(-0.2, 0.2)
    value = (value - value.mean()) * contrast + value.mean() + lift
    cast = np.exp(variation * rng.uniform(-0.5, 0.5, 3))
    return (np.clip(value[..., None] * cast, 0, 1) * 255).round().astype(np.uint8)
