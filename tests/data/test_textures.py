"""The positive control's scenes: real textures, exact masks, nothing shared between the splits."""

from __future__ import annotations

import numpy as np
import pytest

from dualteacher import settings
from dualteacher.data.sources import choose
from dualteacher.data.sources.textures import TABLE, Photograph
from dualteacher.system.errors import UserError

WANTED = settings.Textures(source="textures", size=48, train=6, validation=4, regions=4, variation=1.0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    source = choose(WANTED)
    return source.open([archive.fetch(folder) for archive in source.archives()])


def test_scenes_are_repeatable_and_their_masks_exact(scenes):
    image, mask = scenes.compose("train", "train0003")
    again, mask_again = scenes.compose("train", "train0003")
    assert np.array_equal(image, again) and np.array_equal(mask, mask_again)
    assert image.shape == (48, 48, 3) and 2 <= len(np.unique(mask)) <= 4 and mask.max() < len(TABLE)
    assert len(list(scenes.samples("train"))) == 6 and scenes.ids("val") == [f"val{i:04d}" for i in range(4)]


def test_every_region_has_a_light_of_its_own(scenes):
    tints = []
    for image_id in scenes.ids("train"):
        image, mask = scenes.compose("train", image_id)
        for index in np.unique(mask):
            mean = image[mask == index].mean(0)
            tints.append(mean / mean.sum())
    assert np.std(tints, axis=0).min() > 0.03  # a gray photograph without a cast would give 0


def test_training_and_validation_use_other_halves_of_the_photographs(scenes):
    for left, right in zip(scenes._halves["train"], scenes._halves["val"], strict=True):
        assert left.base is right.base and not np.shares_memory(left, right)


def test_another_photograph_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"brick\.png"):
        Photograph("brick.png", "0" * 64).fetch(tmp_path)
    assert not list(tmp_path.iterdir())
