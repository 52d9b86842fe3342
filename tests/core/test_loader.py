"""Batches are functions of the step: workers, resume and method do not matter; held-back masks stay unread."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from dualteacher.data import augment, loader
from dualteacher.data.pack import Pack

from .conftest import toy_settings, write_pack

PAD = np.array([128, 128, 128], np.uint8)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return Pack(write_pack(tmp_path_factory.mktemp("pack") / "train.arrow", 12, seed=1))


def source(pack, workers=0, first=0, last=6, unlabelled=True, seed=0, share=lambda size: slice(0, size)):
    takes = [loader.Take(loader.Stream("labelled", np.arange(5), seed), 2, share(2))]
    if unlabelled:
        takes.append(loader.Take(loader.Stream("unlabelled", np.arange(5, 12), seed), 4, share(4)))
    dataset = loader.Augmented(pack, toy_settings().augment, 32, PAD, seed)
    return loader.batches(dataset, takes, first, last, workers=workers, pin=False)


def same(one: loader.StepBatch, other: loader.StepBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_batch_shapes(pack):
    batch = next(iter(source(pack)))
    assert batch.labelled.shape == (2, 3, 32, 32) and batch.labelled.dtype == torch.uint8
    assert batch.unlabelled.shape == (4, 3, 32, 32) and batch.inside.dtype == torch.bool
    images = loader.finish(batch)
    assert images.labelled.min() >= 0 and images.labelled.max() <= 1 and images.label.dtype == torch.int64


def test_resume_continues_with_the_same_batches(pack):
    whole = list(source(pack))
    rest = list(source(pack, first=4))
    assert all(same(a, b) for a, b in zip(whole[4:], rest, strict=True))


@pytest.mark.slow
def test_the_number_of_workers_does_not_matter(pack):
    alone, three = list(source(pack)), list(source(pack, workers=3))
    assert all(same(a, b) for a, b in zip(alone, three, strict=True))


def test_processes_share_a_batch(pack):
    whole = list(source(pack))
    halves = [
        list(source(pack, share=lambda size, rank=rank: slice(rank * size // 2, (rank + 1) * size // 2)))
        for rank in (0, 1)
    ]
    for one, first, second in zip(whole, *halves, strict=True):
        assert same(one, loader.StepBatch(*(torch.cat(parts) for parts in zip(first, second, strict=True))))
        assert all(same(a, b) for a, b in zip(one.shards(2), (first, second), strict=True))


def test_labelled_batches_are_the_same_for_every_method(pack):
    with_unlabelled, without = list(source(pack)), list(source(pack, unlabelled=False))
    for a, b in zip(with_unlabelled, without, strict=True):
        assert torch.equal(a.labelled, b.labelled) and torch.equal(a.label, b.label)
        assert torch.equal(a.labelled_factors, b.labelled_factors)
    assert without[0].unlabelled.shape == (0, 3, 32, 32)
    assert loader.finish(without[0]).unlabelled.shape[0] == 0


def test_each_pass_shows_every_image_once_in_a_new_order():
    stream = loader.Stream("labelled", np.arange(10, 17), 0)
    passes = [[stream[7 * turn + i].index for i in range(7)] for turn in range(3)]
    assert all(sorted(one) == list(range(10, 17)) for one in passes)
    assert passes[0] != passes[1]
    assert stream[3] == loader.Stream("labelled", np.arange(10, 17), 0)[3]  # no state


def test_masks_of_unlabelled_images_are_never_read(pack, monkeypatch):
    read = []
    original = Pack.mask
    monkeypatch.setattr(Pack, "mask", lambda self, i: read.append(i) or original(self, i))
    list(source(pack))
    assert set(read) == set(range(5))


def test_padding_is_ignored_and_marked(pack):
    settings = toy_settings().augment.model_copy(update={"scale": [0.25, 0.25], "flip": 0.0, "photometric": False})
    rng = np.random.default_rng(0)
    image, mask = pack.image(0), pack.mask(0)
    known = augment.weak(pack.size(0), lambda least: image, mask, settings, 32, PAD, rng)
    unknown = augment.weak(pack.size(0), lambda least: image, None, settings, 32, PAD, rng)
    rows, columns = 48 // 4, 64 // 4
    for sample in (known, unknown):
        assert (sample.mask[rows:] == 255).all() and (sample.mask[:, columns:] == 255).all()
        assert (sample.image[rows:] == 128).all()
    assert (known.mask[:rows, :columns] != 255).all() and (unknown.mask[:rows, :columns] == 0).all()


def test_crop_without_scaling_copies_pixels(pack):
    image, mask = pack.image(0), pack.mask(0)
    crop = augment.Crop(top=5, left=9, height=48, width=64, side=32)
    np.testing.assert_array_equal(augment.cut_image(image, crop, PAD), image[5:37, 9:41])
    np.testing.assert_array_equal(augment.cut_mask(mask, crop), mask[5:37, 9:41])


def test_image_and_mask_stay_aligned_under_scaling(pack):
    settings = toy_settings().augment.model_copy(update={"scale": [0.7, 1.6], "photometric": False})
    for i in range(12):
        read, rng = partial(pack.image, i), np.random.default_rng(i)
        sample = augment.weak(pack.size(i), read, pack.mask(i), settings, 32, PAD, rng)
        red = sample.image[..., 0].astype(int) - sample.image[..., 2] > 100
        disc = sample.mask == 1
        if disc.sum() > 40:
            assert (red & disc).sum() > 0.7 * disc.sum()


@pytest.mark.parametrize(
    ("size", "resize", "factor", "expected"),
    [
        ((480, 640), None, 0.5, (240, 320)),
        ((512, 683), [2048, 512], 1.0, (512, 683)),
        ((256, 341), [2048, 512], 1.0, (512, 682)),
        ((500, 4000), [2048, 512], 1.0, (256, 2048)),  # the long side is the limit
        ((512, 512), [2048, 512], 2.0, (1024, 1024)),
    ],
)
def test_scaled_size(size, resize, factor, expected):
    assert augment.scaled_size(size, resize, factor) == expected


def test_turns_by_90_degrees_take_the_mask_along(pack):
    """All four turns occur, and each image's own mask goes with it; off, not even the draws differ."""
    settings = toy_settings().augment.model_copy(update={"scale": [1.0, 1.0], "flip": 0.0, "photometric": False})
    turning = settings.model_copy(update={"turns": True})
    image = np.repeat(np.arange(32 * 32, dtype=np.int64).reshape(32, 32, 1) % 251, 3, axis=2).astype(np.uint8)
    mask = image[..., 0] % 3
    seen = set()
    for number in range(20):
        plain, turned = (
            augment.weak((32, 32), lambda least: image, mask, chosen, 32, PAD, np.random.default_rng(number))
            for chosen in (settings, turning)
        )
        np.testing.assert_array_equal(plain.image, image)
        (quarters,) = (k for k in range(4) if np.array_equal(turned.image, np.rot90(image, k)))
        np.testing.assert_array_equal(turned.mask, np.rot90(mask, quarters))
        seen.add(quarters)
    assert seen == {0, 1, 2, 3}


def test_a_crop_filled_by_one_class_is_drawn_again(pack):
    settings = toy_settings().augment.model_copy(update={"class_share": 0.75, "scale": [1.0, 1.0]})
    mask = np.zeros((200, 200), np.uint8)
    mask[:, 150:] = 1
    image = np.zeros((200, 200, 3), np.uint8)

    def mixed(share: float) -> int:
        chosen = settings.model_copy(update={"class_share": share})
        draws = (np.random.default_rng(i) for i in range(60))
        cuts = [augment.weak(mask.shape, lambda least: image, mask, chosen, 64, PAD, rng).mask for rng in draws]
        return sum(not augment.one_class_fills(cut, 0.75) for cut in cuts)

    assert mixed(0.75) > mixed(1.0)
