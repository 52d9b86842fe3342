"""Class balance: weights, confident pixels, alignment, adaptive thresholds, long turns, the moving average."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dualteacher import methods
from dualteacher.core import balance, losses
from dualteacher.core.balance import PseudoLabelBalance
from dualteacher.data import augment
from dualteacher.data.loader import RareStream, finish
from dualteacher.methods.base import Clock
from dualteacher.methods.pseudo_labels import label as label_with
from dualteacher.system.errors import UserError

from .conftest import toy_settings
from .test_methods import batch_of, step, student_of

PIXELS = [900, 90, 10]


def options(name: str, **changes):
    settings = toy_settings()
    changed = settings.methods[name].model_copy(update=changes)
    return settings.model_copy(update={"methods": settings.methods | {name: changed}})


def test_weights_follow_the_counts():
    inverse = balance.class_weights("inverse_sqrt", PIXELS)
    assert inverse[1] / inverse[0] == pytest.approx(math.sqrt(10), rel=1e-5)
    assert inverse[2] / inverse[0] == pytest.approx(math.sqrt(90), rel=1e-5)
    assert 0.9 * inverse[0] + 0.09 * inverse[1] + 0.01 * inverse[2] == pytest.approx(1, rel=1e-5)
    effective = balance.class_weights("effective_number", [500, 300, 200])
    beta = 1 - 1 / 1000
    raw = [1 / (1 - beta**n) for n in (500, 300, 200)]
    assert (effective / effective[0]).tolist() == pytest.approx([r / raw[0] for r in raw], rel=1e-4)
    assert balance.class_weights([1.0, 2.5, 3.0], []).tolist() == [1.0, 2.5, 3.0]
    assert balance.class_weights("none", PIXELS) is None


def test_no_weight_exceeds_the_limit_and_an_absent_class_has_one():
    weights = balance.class_weights("inverse_sqrt", [10**7, 0, 1])
    assert weights[1] == 1 and weights[2] == balance.LARGEST


def test_weighted_loss_is_torchs():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, 6, requires_grad=True)
    label = torch.randint(0, 3, (2, 20, 24))
    label[0, :4] = losses.IGNORE
    weights = torch.tensor([0.5, 1.0, 4.0])
    ours = losses.supervised_loss(logits, label, weights)
    (gradient,) = torch.autograd.grad(ours, logits)
    theirs = F.cross_entropy(F.interpolate(logits, (20, 24), mode="bilinear"), label, weights, ignore_index=255)
    (expected,) = torch.autograd.grad(theirs, logits)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["supervised", "dual_teacher", "fixmatch", "cps"])
@pytest.mark.parametrize("term", ["cross_entropy", "ohem", "focal"])
def test_every_method_weighs_its_labelled_pixels(name, term):
    loss = {"terms": [term], "ohem_minimum": 5}
    weighted = toy_settings(loss=loss | {"class_weights": [0.2, 1.0, 5.0]})
    student = student_of(weighted).eval()
    logits, label = student(torch.rand(2, 3, 32, 32)), torch.randint(0, 3, (2, 32, 32))
    method = methods.build(name, weighted, student)
    plain = methods.build(name, toy_settings(loss=loss), student)
    assert float(method.supervised_loss(logits, label)) != float(plain.supervised_loss(logits, label))


def test_a_wrong_number_of_weights_is_said_in_one_line():
    settings = toy_settings(loss={"class_weights": [1.0, 2.0]})
    with pytest.raises(UserError, match="class_weights has 2 weights for 3 classes"):
        methods.build("supervised", settings, student_of(settings))
    with pytest.raises(UserError, match="class_weights"):
        toy_settings(loss={"class_weights": "inverse"})


@pytest.mark.parametrize("name", ["mean_teacher", "dual_teacher"])
@pytest.mark.parametrize("number", [0, 3])  # CutMix, ClassMix
def test_unsure_pixels_teach_nothing_where_confident_ones_count(name, number):
    settings = options(name, pixels="confident", threshold=1.0)
    student = student_of(settings)
    method = methods.build(name, settings, student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
    _, result = step(method, student, optimizer, number, settings)
    assert float(result.parts["loss_mix"]) == 0
    settings = options(name, pixels="confident", threshold=0.0)
    method = methods.build(name, settings, student)
    _, all_of_them = step(method, student, optimizer, number, settings)
    _, shared = step(methods.build(name, options(name, threshold=0.0), student), student, optimizer, number, settings)
    assert float(all_of_them.parts["loss_mix"]) == pytest.approx(float(shared.parts["loss_mix"]), rel=0.01)


def seen(alignment=0.0, floor=None, threshold=0.95) -> tuple[PseudoLabelBalance, torch.Tensor, torch.Tensor]:
    """A balance that has seen one step of random logits (2, 3, 8, 8), these, and what is inside."""
    made = PseudoLabelBalance([500, 300, 200], threshold, floor, alignment)
    logits = 2 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    inside = torch.ones(2, 16, 16, dtype=torch.bool)
    inside[1, 8:] = False
    made.observe(logits, inside)
    made.step()
    return made, logits, inside


def test_alignment_moves_the_predicted_shares_to_the_labelled_ones():
    made, logits, _ = seen(alignment=1.0)
    known = torch.cat([logits[0].flatten(1), logits[1, :, :4].flatten(1)], 1)  # (3, pixels): padding left out
    probability = known.softmax(0)
    predicted = probability.mean(1)
    expected = probability * (torch.tensor([0.5, 0.3, 0.2]) / predicted)[:, None]
    aligned = made.align(known[None, :, :, None]).softmax(1)[0, :, :, 0]
    torch.testing.assert_close(aligned, expected / expected.sum(0), rtol=1e-4, atol=1e-6)
    half = seen(alignment=0.5)[0]
    offset = (half.align(logits) - logits)[0, :, 0, 0]
    full = (made.align(logits) - logits)[0, :, 0, 0]
    torch.testing.assert_close(offset, full / 2, rtol=1e-4, atol=1e-5)


def test_nothing_is_aligned_before_the_first_step_nor_beyond_the_limit():
    fresh = PseudoLabelBalance([1, 1, 0], 0.95, 0.5, 1.0)
    logits = torch.randn(1, 3, 4, 4)
    assert torch.equal(fresh.align(logits), logits)
    assert fresh.thresholds().tolist() == pytest.approx([0.95] * 3)
    certain = torch.tensor([50.0, 0.0, 0.0])[:, None, None].expand(1, 3, 4, 4)
    fresh.observe(certain, torch.ones(1, 4, 4, dtype=torch.bool))
    fresh.step()
    offset = (fresh.align(logits) - logits)[0, :, 0, 0]
    assert offset.tolist() == pytest.approx([math.log(0.5), math.log(balance.LARGEST), 0.0], abs=1e-5)


def test_thresholds_are_the_classes_mean_confidences_within_limits():
    made, logits, _ = seen(floor=0.5)
    confidence, label = (part.flatten(1) for part in logits.softmax(1).max(1))
    confidence = torch.cat([confidence[0], confidence[1, :32]])
    label = torch.cat([label[0], label[1, :32]])
    expected = [min(max(float(confidence[label == c].mean()), 0.5), 0.95) for c in range(3)]
    assert made.thresholds().tolist() == pytest.approx(expected, rel=1e-4)
    assert seen(floor=0.9)[0].thresholds().min() >= 0.9


def test_scaled_confidence_passes_exactly_where_its_class_does():
    made, _, _ = seen(floor=0.5)
    label = torch.arange(3).repeat_interleave(400)[None, None]
    confidence = torch.linspace(0.33, 1, 400).repeat(3)[None, None]
    own = made.thresholds()[label]
    own_values = torch.cat([confidence, own], -1)  # the thresholds themselves too
    labels = torch.cat([label, label], -1)
    scaled = made.scale(labels, own_values)
    assert torch.equal(scaled >= 0.95, own_values >= made.thresholds()[labels])


@pytest.mark.parametrize("name", ["mean_teacher", "dual_teacher", "fixmatch", "unimatch_v2"])
def test_methods_learn_the_aligned_labels(name):
    settings = options(name, alignment=1.0, adaptive_floor=0.4)
    student = student_of(settings)
    method = methods.build(name, settings, student, lambda: PIXELS)
    batch = finish(batch_of(settings))
    network = method.teachers[0] if method.teachers else student.eval()
    first = label_with(network, batch, method.balance)
    plain = label_with(network, batch)
    assert torch.equal(first.label, plain.label)
    method.balance.step()
    again = label_with(network, batch, method.balance)
    shares = [torch.bincount(one.label.flatten(), minlength=3)[0] for one in (plain, again)]
    assert shares[1] > shares[0]  # towards the common class
    student.train()
    draws = method.draw(Clock(0, 3), batch_of(settings), 0, torch.device("cpu"))
    assert torch.isfinite(method.loss(student, batch, draws, Clock(0, 3)).total)


def test_turns_last_at_least_so_many_steps():
    settings = options("dual_teacher", period_at_least=5)
    method = methods.build("dual_teacher", settings, student_of(settings))
    assert [method.active(Clock(s, 3)) for s in range(11)] == [0] * 5 + [1] * 5 + [0]  # an epoch is three steps
    assert [method.active(Clock(s, 8)) for s in (7, 8)] == [0, 1]
    assert method.decay(Clock(5, 3)) == 0 and method.mix(Clock(5, 3)) == "classmix"


def test_rare_classes_are_drawn_as_often_as_daformers_formula_says():
    pixels = np.array([[90, 10, 0], [100, 0, 0], [80, 0, 20]])
    stream = RareStream("labelled", np.array([7, 8, 9]), 0, pixels, temperature=0.5)
    shares = np.array([270, 10, 20]) / 300
    expected = np.exp((1 - shares) / 0.5)
    items = [stream[i] for i in range(4000)]
    drawn = np.bincount([item.wanted for item in items], minlength=3) / len(items)
    np.testing.assert_allclose(drawn, expected / expected.sum(), atol=0.03)
    assert {item.index for item in items if item.wanted == 1} == {7}
    assert {item.index for item in items if item.wanted == 0} == {7, 8, 9}
    assert items[5] == RareStream("labelled", np.array([7, 8, 9]), 0, pixels, temperature=0.5)[5]
    cold = RareStream("labelled", np.array([7, 8, 9]), 0, pixels, temperature=1e-4)  # no overflow: the rarest alone
    assert {cold[i].wanted for i in range(50)} == {1}


def test_a_crop_shows_the_wanted_class_where_it_can():
    mask = np.zeros((64, 64), np.uint8)
    mask[:16, :32] = 1
    image = np.zeros((64, 64, 3), np.uint8)
    settings = toy_settings(augment={"scale": [1.0, 1.0]}).augment
    pad = np.zeros(3, np.uint8)

    def crops(wanted):
        for seed in range(40):
            rng = np.random.default_rng(seed)
            yield augment.weak((64, 64), lambda least: image, mask, settings, 16, pad, rng, wanted).mask

    plain, looked_for = ([float(np.mean(crop == 1)) for crop in crops(wanted)] for wanted in (None, 1))
    assert np.mean(np.array(plain) >= 0.01) < 0.6 and np.mean(np.array(looked_for) >= 0.01) > 0.95
