"""Images that a small network learns in seconds: three fields side by side, one of each class's colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dualteacher.data.pack import PackWriter, Sample
from tests.core.conftest import CLASSES, png


def write_scenes(path: Path, count: int, seed: int, sizes: list[tuple[int, int]], unmasked: int = 0) -> Path:
    """A pack of `count` images, the last `unmasked` without masks."""
    rng = np.random.default_rng(seed)
    with PackWriter(path, "toy", len(CLASSES)) as writer:
        for i in range(count):
            height, width = sizes[i % len(sizes)]
            borders = np.sort(rng.integers(width // 6, width, 2))
            mask = np.broadcast_to(np.searchsorted(borders, np.arange(width)), (height, width))
            mask = rng.permutation(3)[mask].astype(np.uint8)
            image = np.array([info.color for info in CLASSES])[mask] + rng.integers(-25, 25, (height, width, 3))
            encoded = None if i >= count - unmasked else png(mask)
            writer.add(Sample(f"image{i:03d}", png(image.clip(0, 255).astype(np.uint8)), encoded, height, width))
    return path
