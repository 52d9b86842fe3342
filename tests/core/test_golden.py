"""The losses, schedule, EMA decay and metrics come out as released, to 1e-5, gradients too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dualteacher.core import ema, learning_rate, losses, mixing
from dualteacher.evaluation.confusion import ConfusionMatrix

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "losses.npz")
THRESHOLDS = (0.5, 0.95)


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[name])


def check(loss_function, arguments, loss_name: str, gradient_name: str) -> None:
    logits = tensor("student_logits").clone().requires_grad_()
    loss = loss_function(logits, *arguments)
    loss.backward()
    assert loss.item() == pytest.approx(float(GOLDEN[loss_name]), abs=1e-5)
    expected = GOLDEN[gradient_name]
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-4, atol=1e-5 * abs(expected).max())


def test_supervised_loss():
    check(losses.supervised_loss, [tensor("label_ignore")], "supervised_loss", "supervised_grad")


def test_pseudo_label():
    label, confidence = losses.pseudo_label(tensor("teacher_logits"), (48, 64))
    np.testing.assert_array_equal(label, GOLDEN["teacher_label"])
    np.testing.assert_allclose(confidence, GOLDEN["teacher_confidence"], atol=1e-6)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("name", ["consistency", "cutmix"])
def test_losses_on_teacher_labels(name, threshold):
    function = getattr(losses, f"{name}_loss")
    arguments = [tensor("teacher_label"), tensor("teacher_confidence"), threshold]
    check(function, arguments, f"{name}_loss_{threshold}", f"{name}_grad_{threshold}")


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_classmix(threshold):
    weak = mixing.PseudoLabelled(torch.zeros(3, 3, 48, 64), tensor("teacher_label"), tensor("teacher_confidence"))
    mixed = mixing.paste(weak, tensor(f"classmix_mask_{threshold}"), tensor("classmix_perm"))
    np.testing.assert_array_equal(mixed.label, GOLDEN[f"classmix_label_{threshold}"])
    share = losses.kept_share(mixed.confidence, threshold).item()
    assert share == pytest.approx(float(GOLDEN[f"classmix_weight_{threshold}"]), abs=1e-6)
    arguments = [mixed.label, mixed.confidence, threshold]
    check(losses.classmix_loss, arguments, f"classmix_loss_{threshold}", f"classmix_grad_{threshold}")


def test_class_mask_pastes_the_chosen_classes():
    label = tensor("label")[:1]
    chosen = GOLDEN["class_mask_classes"]
    present = np.unique(label)
    # scores that draw exactly these classes: as many as the half (floor) of the present ones, or fewer
    rank = torch.full((1, 11), 0.1)
    rank[0, torch.from_numpy(chosen[: len(present) // 2])] = 0.9
    expected = np.isin(label, chosen[: len(present) // 2])
    np.testing.assert_array_equal(mixing.class_mask(label, rank), expected)


def test_schedule():
    rates = [learning_rate.poly_warmup(int(s), 6e-5, 1500, 1e-6, 50_000, 1.0) for s in GOLDEN["lr_steps"]]
    np.testing.assert_allclose(rates, GOLDEN["lr"], rtol=1e-9)


def test_ema_decay():
    decays = [ema.decay(int(s), 0.99) for s in GOLDEN["ema_steps"]]
    np.testing.assert_allclose(decays, GOLDEN["ema_decay"], rtol=1e-12)


def test_metrics():
    matrix = ConfusionMatrix(11)
    target, prediction = GOLDEN["metric_target"], GOLDEN["metric_prediction"]
    for t, p in zip(target, prediction, strict=True):  # streamed
        matrix.update(t, p)
    scores = matrix.scores()
    for name in ("miou", "pixel_accuracy", "mean_accuracy"):
        assert scores[name] == pytest.approx(float(GOLDEN[f"metric_{name}"]), abs=1e-12)
    np.testing.assert_allclose(scores["class_iou"], GOLDEN["metric_class_iou"], equal_nan=True)
