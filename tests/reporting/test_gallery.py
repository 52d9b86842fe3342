"""The gallery: right colours, right errors, the same bytes, any sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualteacher.data.class_table import ClassInfo
from dualteacher.evaluation import gallery

CLASSES = [ClassInfo("sea", (0, 0, 255)), ClassInfo("land", (0, 255, 0)), ClassInfo("ice", (255, 0, 0))]


def row(height: int = 30, width: int = 40) -> gallery.Row:
    """Grey image; truth is classes 1 | 2, the prediction gets the upper half of 2 wrong."""
    truth = np.full((height, width), 1, np.uint8)
    truth[:, width // 2 :] = 2
    prediction = truth.copy()
    prediction[: height // 2, width // 2 :] = 0
    return gallery.Row(np.full((height, width, 3), 128, np.uint8), truth, prediction)


def test_same_rows_same_bytes_and_plain_tuples_will_do(tmp_path: Path) -> None:
    gallery.render([row(), row(50, 20)], CLASSES, tmp_path / "a.png")
    gallery.render([tuple(row()), tuple(row(50, 20))], CLASSES, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_classes_keep_their_colour_whichever_others_are_present() -> None:
    image, truth, prediction, errors = gallery._pictures(*row(), CLASSES)
    y, left, right = image.shape[0] // 4, image.shape[1] // 4, 3 * image.shape[1] // 4
    assert truth[y, left].argmax() == 1 and truth[y, right].argmax() == 0  # land green, ice red
    assert prediction[y, right].argmax() == 2  # sea blue
    assert np.ptp(errors[y, left]) < 0.01 < np.ptp(errors[y, right])  # right: grey; wrong: coloured


def test_unknown_truth_is_no_error(tmp_path: Path) -> None:
    image, truth, prediction = row()
    truth[:] = 255
    _, shown, _, errors = gallery._pictures(image, truth, prediction, CLASSES)
    assert np.ptp(shown, axis=-1).max() < 1e-9 and np.ptp(errors, axis=-1).max() < 1e-9  # stripes of grey
    gallery.render([(image, truth, prediction)], CLASSES, tmp_path / "a.png")


def test_size_of_the_sheet_does_not_follow_the_images(tmp_path: Path) -> None:
    gallery.render([row(8, 8)], CLASSES, tmp_path / "small.png")
    gallery.render([row(256, 512)], CLASSES, tmp_path / "large.png")
    with Image.open(tmp_path / "small.png") as small, Image.open(tmp_path / "large.png") as large:
        assert small.width == large.width


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        gallery.render([], CLASSES, tmp_path / "a.png")
