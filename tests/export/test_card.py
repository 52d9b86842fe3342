"""The model card says what the weights are and how good, and nothing that is not known."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch

from dualteacher.evaluation.card import render
from dualteacher.models import named, saved, tensors
from dualteacher.settings import Evaluate
from tests.export.conftest import BACKBONE, CELL

ONE_SCALE = Evaluate(scales=[1.0], flip=False, gallery=1, weights="student")


@pytest.fixture
def facts(trained):
    """The arguments of `render` for the trained cell."""
    model, description = named.load(CELL.student)
    metrics, per_class = json.loads(CELL.metrics.read_text()), pd.read_parquet(CELL.per_class)
    return [CELL.student, model, description, metrics, per_class, ONE_SCALE]


def test_evaluate_writes_the_card_from_the_weights_and_the_scores(facts):
    weights, _, description, metrics, per_class, _ = facts
    card = CELL.model_card.read_text()
    assert card == render(*facts)
    assert card.startswith("# supervised on toy, partition some, seed 0\n")
    assert f"| mIoU | {100 * metrics['miou']:.1f} |" in card
    assert "On the 4 validation images, after the last step (one scale, no flip)." in card
    iou, accuracy = (f"{100 * per_class[key][1]:.1f}" for key in ("iou", "accuracy"))
    assert f"| 1 | disc | `#c81e1e` | {iou} | {accuracy} |" in card
    assert f"segformer, head width 16, on {BACKBONE}" in card and "| backbone pretrained | no |" in card
    assert "14 images with masks, 0 without; crops of 48 pixels" in card
    assert metrics["weights_sha256"] in card and description["train_sha256"] in card
    assert f"python -m dualteacher export {weights}" in card
    settings = card.split("```json\n")[1].split("```")[0]
    assert json.loads(settings) == description["parameters"]


def test_the_cards_python_runs(facts):
    code = CELL.model_card.read_text().split("```python\n")[1].split("```")[0]
    known = {"image": torch.rand(1, 3, 32, 64)}
    exec(code, known)  # noqa: S102
    assert known["logits"].shape == (1, 3, 8, 16)


def test_the_weights_say_what_the_card_says(facts):
    _, model, description, *_ = facts
    assert description["normalisation"]["mean"] == pytest.approx(model.mean.flatten().tolist(), abs=1e-6)
    assert description["normalisation"]["std"] == pytest.approx(model.std.flatten().tolist(), abs=1e-6)
    assert [entry["color"] for entry in description["classes"]] == [[120, 90, 60], [200, 30, 30], [30, 30, 200]]
    assert (description["stride"], description["labelled"], description["unlabelled"]) == (4, 14, 0)
    assert len(description["train_sha256"]) == 64
    assert (description["pretrained"]["kind"], description["pretrained"]["tensors"]) == ("none", 0)


def test_weak_and_absent_classes_are_named(facts):
    per_class = facts[4].copy()
    per_class.loc[1, "iou"] = 0.01
    per_class.loc[2, ["iou", "accuracy", "target_pixels"]] = [0.0, float("nan"), 0]  # predicted, but nowhere
    card = render(*facts[:4], per_class, Evaluate(scales=[0.75, 1.0], flip=True, gallery=1, weights="student"))
    assert "- Classes with an IoU below 5.0 %: disc." in card
    assert "- Classes absent from the validation images: bar." in card
    assert "| 2 | bar | `#1e1ec8` | 0.0 | – | 0.0 |" in card
    assert "(scales 0.75, 1, with flip)" in card


def test_weights_of_an_older_version_get_a_card_too(facts):
    description = {key: value for key, value in facts[2].items()
                   if key not in ("normalisation", "labelled", "unlabelled", "train_sha256")}  # fmt: skip
    card = render(*facts[:2], description, *facts[3:])
    assert "| trained on | crops of 48 pixels |" in card and "None" not in card.split("<details>")[0]


def test_weights_from_before_a_setting_existed_are_read(trained, tmp_path):
    model, description = saved.load(CELL.student)
    older = {key: value for key, value in description.items() if key not in ("format", "kind", "normalisation")}
    older["model"] = {key: value for key, value in older["model"].items() if key not in saved.LATER}
    tensors.write(tmp_path / "older", "segmenter", model.state_dict(), older)
    assert saved.load(tmp_path / "older")[0].settings == model.settings
