"""Masks become COCO polygons and masks again without the loss of a pixel."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from dualteacher.data.class_table import ClassInfo
from dualteacher.labelling import coco

CLASSES = [ClassInfo(name, (0, 0, 0)) for name in "abcd"]
INDEX_OF = {entry["id"]: index for index, entry in enumerate(coco.categories(CLASSES))}


def smooth(seed: int, size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.argmax([ndimage.gaussian_filter(rng.normal(size=size), 2) for _ in CLASSES], 0).astype(np.uint8)


def noise(seed: int, size: tuple[int, int]) -> np.ndarray:
    mask = np.random.default_rng(seed).integers(0, 4, size).astype(np.uint8)
    mask[mask == 3] = 255
    return mask


@pytest.mark.parametrize("make", [smooth, noise])
@pytest.mark.parametrize("size", [(40, 57), (1, 9), (9, 1), (1, 1)])
def test_masks_come_back_to_the_pixel(make, size) -> None:
    for seed in range(2):
        mask = make(seed, size)
        drawn = coco.annotate(mask, 7, 1)
        np.testing.assert_array_equal(coco.rasterise(drawn, size, INDEX_OF), mask)
        assert sum(entry["area"] for entry in drawn) == (mask != 255).sum()


def test_smooth_borders_need_few_corners() -> None:
    y, x = np.mgrid[:100, :100]
    (drawn,) = coco.annotate(np.where((y - 50) ** 2 + (x - 50) ** 2 < 1600, 0, 255).astype(np.uint8), 1, 1)
    assert len(drawn["segmentation"]) == 1
    assert len(drawn["segmentation"][0]) / 2 < 80, "a circle of 251 pixels"


def test_a_region_with_holes_is_cut_into_polygons_without() -> None:
    mask = np.zeros((30, 30), np.uint8)
    mask[5:9, 5:9], mask[12, 3:25], mask[20:28, 10:20], mask[22:24, 12:14] = 1, 2, 3, 0
    for entry in coco.annotate(mask, 1, 1):
        for polygon in entry["segmentation"]:
            assert all(isinstance(value, float) for value in polygon) and len(polygon) >= 6
            corners = np.array(polygon).reshape(-1, 2)
            left, top, width, height = entry["bbox"]
            assert (corners >= [left, top]).all() and (corners <= [left + width, top + height]).all()
    drawn = coco.annotate(mask, 1, 1)
    assert [len(entry["segmentation"]) > 1 for entry in drawn] == [True, False, False, False, True]
    np.testing.assert_array_equal(coco.rasterise(drawn, mask.shape, INDEX_OF), mask)


def test_a_whole_file_and_what_it_says_of_a_square() -> None:
    mask = np.full((10, 12), 255, np.uint8)
    mask[2:6, 3:8] = 1
    written = coco.document(CLASSES, [("x/a.jpg", mask), ("b.png", mask)])
    assert written["images"][1] == {"id": 2, "file_name": "b.png", "height": 10, "width": 12}
    one, two = written["annotations"]
    assert (one["id"], one["image_id"], two["id"], two["image_id"]) == (1, 1, 2, 2)
    assert one["bbox"] == [3, 2, 5, 4] and one["area"] == 20 and one["category_id"] == 2
    assert written["categories"][1]["name"] == "b"
    polygon = np.array(one["segmentation"][0]).reshape(-1, 2)
    assert polygon.min(0).tolist() == [3.0, 2.0] and polygon.max(0).tolist() == [8.0, 6.0], "pixels' outer borders"


def test_run_lengths_are_read_and_damaged_ones_refused() -> None:
    counts = {"size": [2, 3], "counts": [1, 2, 3]}  # by columns
    for stored in (counts, counts | {"counts": "123"}):  # compressed: one character for each of these small counts
        mask = coco.rasterise([{"segmentation": stored, "category_id": 2}], (2, 3), INDEX_OF)
        assert mask.tolist() == [[255, 1, 255], [1, 255, 255]]
    for wrong in ({"counts": [1, 2]}, {"counts": "abc"}):
        with pytest.raises(ValueError, match="run lengths"):
            coco.rasterise([{"segmentation": wrong, "category_id": 2}], (2, 3), INDEX_OF)
