"""Which images are chosen: answers known beforehand, on made-up features, confidences and class maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dualteacher.core import upsampling
from dualteacher.labelling import choice
from dualteacher.labelling.observe import disagreement, uncertainty


def test_the_highest_scores_first_and_of_equals_the_first() -> None:
    assert choice.highest(np.array([0.1, 0.5, 0.3, 0.5]), 3).tolist() == [1, 3, 2]


def test_k_centre_takes_what_is_farthest_from_all_that_is_chosen() -> None:
    line = np.array([[0.0], [1.0], [4.0], [9.0], [10.0]])
    places, distances = choice.k_centre(line, np.array([[0.0]]), 3)
    assert places.tolist() == [4, 2, 1]  # 10, then 4 (4 from 0, 6 from 10), then 1 and 9 are equal: the first
    assert distances.tolist() == [10.0, 4.0, 1.0]


def test_k_centre_starts_from_what_is_labelled() -> None:
    line = np.array([[0.0], [5.0], [10.0]])
    assert choice.k_centre(line, np.array([[10.0], [4.0]]), 1)[0].tolist() == [0]
    assert choice.k_centre(line, np.zeros((0, 1)), 2)[0].tolist() == [1, 0], "without any: from the mean"


def test_k_centre_never_takes_an_image_twice() -> None:
    places, distances = choice.k_centre(np.zeros((4, 3)), np.zeros((1, 3)), 9)
    assert places.tolist() == [0, 1, 2, 3] and not distances.any()


def test_uncertainty_of_logits_that_are_known() -> None:
    classes = 4
    logits = torch.zeros(2, classes, 3, 3)
    logits[1, 2] = np.log(3 * 9.0)  # that class has 27 / 30
    _, confidence = upsampling.label_and_confidence(logits, (6, 6))
    assert uncertainty(confidence).tolist() == pytest.approx([0.75, 0.1], abs=1e-6)


def test_disagreement_is_the_mean_over_pairs() -> None:
    one = torch.zeros(2, 2, 2, dtype=torch.long)
    other = one.clone()
    other[0, 0, 0] = 3
    assert disagreement([one, other]).tolist() == [0.25, 0.0]
    assert disagreement([one, other, other]).tolist() == pytest.approx([0.5 / 3, 0.0])
