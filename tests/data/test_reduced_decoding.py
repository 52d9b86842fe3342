"""Big JPEGs are decoded at a reduced size where the crop's scale allows it; what comes out stays nearly the same."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dualteacher.core import seeds
from dualteacher.data import augment, loader, pack
from dualteacher.data.pack import Pack, PackWriter, Sample
from dualteacher.settings import Augment

PAD = np.full(3, 128, np.uint8)
SIZES = [(512, 640), (333, 501), (401, 299)]  # odd sides too: the reduced size is rounded up


def photo(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Smooth structures at all scales, as photographs have, and a little noise."""
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC)
        ).astype(float)
        for n in (3, 9, 27, 60)
    ]
    return (sum(layers) / 4 + rng.normal(0, 3, (*size, 3))).clip(0, 255).astype(np.uint8)


def encoded(array: np.ndarray, kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind)
    return out.getvalue()


@pytest.fixture(scope="module", params=["JPEG", "PNG"])
def made(request, tmp_path_factory) -> Pack:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("pack") / f"{request.param}.arrow"
    with PackWriter(path, "photos", 2) as writer:
        for i, size in enumerate(SIZES):
            mask = encoded((np.indices(size).sum(0) // 40 % 2).astype(np.uint8), "PNG")
            writer.add(Sample(f"photo{i}", encoded(photo(rng, size), request.param), mask, *size))
    return Pack(path)


def settings(scale: float, resize: list[int] | None = None) -> Augment:
    return Augment(resize=resize, scale=[scale, scale], class_share=1.0, flip=0.5, turns=False, photometric=True)


@pytest.mark.parametrize(("share", "expected"), [(1.0, 1), (0.51, 1), (0.5, 2), (0.26, 2), (0.25, 4), (0.1, 8)])
def test_the_reduction_is_the_largest_that_is_still_large_enough(made, share, expected):
    full = made.image(0)
    least = (int(full.shape[0] * share), int(full.shape[1] * share))
    found = made.image(0, least)
    factor = expected if made.path.stem == "JPEG" else 1
    assert found.shape == (full.shape[0] // factor, full.shape[1] // factor, 3)


@pytest.mark.parametrize("index", range(len(SIZES)))
@pytest.mark.parametrize("scale", [0.2, 0.35, 0.5, 0.9])
def test_crops_stay_nearly_the_same(made, index, scale):
    dataset = loader.Augmented(made, settings(scale), 64, PAD, 0)
    item = loader.Item("labelled", 0, index)
    ours = dataset[item]
    rng = seeds.generator(0, "augment", "labelled", 0, made.ids[index])
    size, image = made.size(index), made.image(index)
    full = augment.weak(size, lambda least: image, made.mask(index), settings(scale), 64, PAD, rng)
    assert np.array_equal(ours.mask, full.mask) and np.array_equal(ours.factors, full.factors)
    apart = np.abs(ours.image.astype(int) - full.image.astype(int))
    assert apart.mean() < 2.5 and np.quantile(apart, 0.99) < 16  # of 255
    again = dataset[item]
    assert np.array_equal(ours.image, again.image)
    if scale > 0.5 or made.path.stem == "PNG":
        assert apart.max() == 0


def test_fewer_pixels_are_decoded(made, monkeypatch):
    shapes = []
    original = pack.decode_image

    def watched(data, least=None):
        found = original(data, least)
        shapes.append(found.shape[:2])
        return found

    monkeypatch.setattr(pack, "decode_image", watched)
    loader.Augmented(made, settings(1.0, [128, 128]), 64, PAD, 0)[loader.Item("unlabelled", 0, 0)]
    height, width = SIZES[0]
    assert shapes == [(height // 4, width // 4) if made.path.stem == "JPEG" else (height, width)]
