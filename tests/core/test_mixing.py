"""CutMix and ClassMix keep image, label and confidence together; the views are what their names say."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from dualteacher.core import mixing, views
from dualteacher.settings import Jitter

from .conftest import toy_settings

MIXING = toy_settings().mixing
SILENT = MIXING.model_copy(
    update={
        "cutmix_jitter": MIXING.cutmix_jitter.model_copy(update={"probability": 0.0}),
        "blur": 0.0,
        "flip": 0.5,
    }
)


def tagged(batch: int, size: tuple[int, int], classes: int = 6, seed: int = 0) -> mixing.PseudoLabelled:
    """Images whose pixels say which image and place they come from, in colour, label and confidence."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (batch, *size), generator=generator)
    tag = torch.arange(batch * size[0] * size[1]).view(batch, *size) / (batch * size[0] * size[1])
    return mixing.PseudoLabelled(tag[:, None].repeat(1, 3, 1, 1), label, tag.clone())


@settings(max_examples=30, deadline=None)
@given(step=st.integers(0, 10_000), batch=st.integers(1, 5), height=st.integers(8, 40), width=st.integers(8, 40))
def test_image_label_and_confidence_travel_together(step, batch, height, width):
    weak = tagged(batch, (height, width))
    draws = mixing.draw(SILENT, 3, step, batch, 6, (height, width))
    for mixed in (mixing.cutmix(weak, draws, SILENT), mixing.classmix(weak, draws)):
        torch.testing.assert_close(mixed.image[:, 0], mixed.confidence, rtol=0, atol=2e-6)
        pixel = (mixed.confidence * weak.label.numel()).round().long()
        assert torch.equal(weak.label.flatten()[pixel], mixed.label)


def test_cutmix_box_has_the_published_size_and_stays_inside():
    centre = np.random.default_rng(0).uniform(0, 1, (1000, 2))
    ratio = 0.36  # sides are 0.8 of the image's
    box = mixing.cutmix_boxes(ratio, centre, (100, 200))
    top, bottom, left, right = box.T
    assert (top >= 0).all() and (bottom <= 100).all() and (left >= 0).all() and (right <= 200).all()
    assert (bottom - top).max() == 80 and (right - left).max() == 160
    middle = (100 / 8 + centre[:, 0] * 100 * 7 / 8).astype(int)
    np.testing.assert_array_equal(bottom, np.minimum(middle + 40, 100))
    inside = ~mixing.box_mask(torch.from_numpy(box[:5]), (100, 200))
    np.testing.assert_array_equal(inside.sum((1, 2)), ((bottom - top) * (right - left))[:5])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(1, 12))
def test_classmix_pastes_half_of_the_present_classes_whole(seed, classes):
    rng = np.random.default_rng(seed)
    label = torch.from_numpy(rng.integers(0, classes, (3, 7, 9)))
    label[0, 0, :4] = 255
    mask = mixing.class_mask(label, torch.from_numpy(rng.random((3, classes))).float())
    for one, chosen in zip(label, mask, strict=True):
        present = set(one.unique().tolist()) - {255}
        pasted = set(one[chosen].unique().tolist())
        assert len(pasted) == len(present) // 2
        assert not chosen[one == 255].any()
        assert pasted.isdisjoint(one[~chosen].unique().tolist())


def test_draws_are_functions_of_seed_and_step_alone():
    one = mixing.draw(MIXING, 1, 7, 4, 6, (32, 32))
    mixing.draw(MIXING, 1, 8, 4, 6, (32, 32))
    again = mixing.draw(MIXING, 1, 7, 4, 6, (32, 32))
    other = mixing.draw(MIXING, 2, 7, 4, 6, (32, 32))
    assert torch.equal(one.rank, again.rank) and torch.equal(one.box, again.box) and one.order == again.order
    assert not torch.equal(one.rank, other.rank)
    # image 2 of the step has its draws wherever the batch is cut
    tail = mixing.draw(MIXING, 1, 7, 2, 6, (32, 32), first=2)
    assert torch.equal(one.rank[2:], tail.rank) and torch.equal(one.strong_jitter[2:], tail.strong_jitter)


def test_a_groups_draws_do_not_depend_on_how_the_batch_is_cut():
    whole = mixing.draw(MIXING, 1, 7, 8, 6, (32, 32), groups=4)
    assert ((whole.partner // 2) == (torch.arange(8) // 2)).all()  # partners come from the own group
    for first, groups in ((0, 2), (4, 2), (6, 1)):
        part = mixing.draw(MIXING, 1, 7, 2 * groups, 6, (32, 32), first=first, groups=groups)
        rows = slice(first, first + 2 * groups)
        assert torch.equal(whole.box[rows], part.box) and torch.equal(whole.partner[rows] - first, part.partner)
        assert torch.equal(whole.rank[rows], part.rank) and whole.order == part.order


PIXELS = [9000, 900, 90, 0]


def test_copy_paste_brings_whole_classes_of_labelled_images_with_their_true_labels():
    strong = tagged(6, (8, 8))
    generator = torch.Generator().manual_seed(1)
    labelled, label = torch.rand(2, 3, 8, 8, generator=generator), torch.randint(0, 3, (2, 8, 8), generator=generator)
    label[:, 6:] = 255
    draws = mixing.draw_copy_paste(SILENT, 0, 3, 6, mixing.rarity(PIXELS), (8, 8), 2)
    assert draws.partner.bincount().tolist() == [3, 3]
    mixed = mixing.copy_paste(strong, labelled, label, draws)
    view = mixing.strong_view(labelled[draws.partner], draws)
    for i, truth in enumerate(label[draws.partner]):
        pasted = mixed.confidence[i] == 1  # no tag is 1
        (one,) = truth[pasted].unique().tolist()  # one of three classes
        assert one != 255 and torch.equal(pasted, truth == one)
        assert (mixed.label[i][pasted] == one).all() and torch.equal(mixed.image[i][:, pasted], view[i][:, pasted])
        for found, own in zip(mixed, strong, strict=True):
            assert torch.equal(found[i][..., ~pasted], own[i][..., ~pasted])


def test_copy_paste_prefers_rare_classes():
    """Of two classes whose shares are 100 to 1, the rare one is chosen ten times as often as the other."""
    rarity = mixing.rarity(PIXELS)
    ranks = torch.cat([mixing.draw_copy_paste(SILENT, 0, s, 32, rarity, (8, 8), 4).rank for s in range(40)])
    label = torch.tensor([0, 2]).repeat(len(ranks), 1, 1)
    chosen = mixing.class_mask(label, ranks).float().mean((0, 1))
    assert chosen.sum() == 1 and chosen[1] == pytest.approx(10 / 11, abs=0.03)


def test_copy_paste_stays_within_a_group_however_the_batch_is_cut():
    draw = partial(mixing.draw_copy_paste, MIXING, 1, 7)
    rarity = mixing.rarity(PIXELS)
    whole = draw(12, rarity, (32, 32), 8, groups=4)
    assert ((whole.partner // 2) == (torch.arange(12) // 3)).all()
    for first, groups in ((0, 2), (2, 2), (3, 1)):
        part = draw(3 * groups, rarity, (32, 32), 2 * groups, first=3 * first, groups=groups)
        rows = slice(3 * first, 3 * (first + groups))
        assert torch.equal(whole.partner[rows] - 2 * first, part.partner) and torch.equal(whole.rank[rows], part.rank)


def test_jitter_equals_torchvision_image_by_image():
    image = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    factors = torch.tensor([[1.3, 0.6, 1.4, 0.2], [0.7, 1.4, 0.5, -0.25], [1, 1, 1, 0], [1.1, 0.9, 0, 0.5]])
    found = views.jitter(image, factors)
    for one, (b, c, s, h), ours in zip(image, factors.tolist(), found, strict=True):
        one = tv.adjust_contrast(tv.adjust_brightness(one, b), c)
        one = tv.adjust_hue(tv.adjust_saturation(one, s), h)
        # torchvision rounds the luma's weights a little differently
        torch.testing.assert_close(ours, one, rtol=0, atol=2e-3)
    torch.testing.assert_close(found[2], image[2], rtol=0, atol=1e-6)


def test_blur_equals_torchvision_and_zero_leaves_sharp():
    image = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    found = views.blur(image, torch.tensor([1.0, 0.0]), 1.15)
    expected = tv.gaussian_blur(image[:1], [9, 9], [1.0, 1.0])[0]
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], image[1], rtol=0, atol=1e-6)


def test_grayscale_and_flip_touch_the_chosen_only():
    image = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    chosen = torch.tensor([True, False])
    gray = views.grayscale(image, chosen)
    assert torch.equal(gray[1], image[1]) and torch.equal(gray[0, 0], gray[0, 2])
    flipped = views.flip(image, chosen)
    assert torch.equal(flipped[1], image[1]) and torch.equal(flipped[0], image[0].flip(-1))
    label = torch.arange(70).view(2, 5, 7)
    assert torch.equal(views.flip(label, chosen)[0], label[0].flip(-1))


def test_jitter_applies_with_its_probability():
    always = Jitter(probability=1.0, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25)
    rng = np.random.default_rng(0)
    drawn = np.array([views.draw_jitter(rng, always) for _ in range(500)])
    assert (drawn[:, :3] >= 0.5).all() and (drawn[:, :3] <= 1.5).all() and (abs(drawn[:, 3]) <= 0.25).all()
    never = always.model_copy(update={"probability": 0.0})
    assert views.draw_jitter(rng, never) == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("name", ["cutmix", "classmix"])
def test_partner_pixels_replace_own_ones_somewhere(name):
    weak = tagged(4, (32, 32))
    changed = 0
    for step in range(10):
        draws = mixing.draw(SILENT.model_copy(update={"flip": 0.0}), 0, step, 4, 6, (32, 32))
        mixed = mixing.cutmix(weak, draws, SILENT) if name == "cutmix" else mixing.classmix(weak, draws)
        changed += int((mixed.label != weak.label).sum())
    assert changed > 0
