"""Convert masks to COCO annotations and back without loss: a polygon contains exactly its region's pixel centres.

A region is a 4-connected component. COCO polygons have no holes, so a region with holes is cut along rows into
several polygons of one annotation. Coordinates are pixels, x right and y down; (0, 0) is the corner of the first
pixel, whose centre is (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from skimage import measure

from dualteacher.core.labels import IGNORE
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.formats.annotations import coco as formats_coco
from dualteacher.data.formats.annotations import rasterise as painting

# Contours stay at least 1/√8 ≈ 0.354 from pixel centres: simplified within less than that, they contain the same ones.
TOLERANCE = 0.35

Polygon = list[float]  # x, y, x, y, …


def categories(classes: Sequence[ClassInfo]) -> list[dict[str, Any]]:
    """COCO categories; they count from 1, so class 0 is category 1."""
    return [{"id": index + 1, "name": info.name, "supercategory": ""} for index, info in enumerate(classes)]


def annotate(mask: np.ndarray, image: int, first: int) -> list[dict[str, Any]]:
    """One annotation per region of mask (H, W) uint8, with ids from `first`; 255 is skipped."""
    found: list[dict[str, Any]] = []
    for index in np.unique(mask):
        if index == IGNORE:
            continue
        regions = measure.label(mask == index, connectivity=1)
        for region in measure.regionprops(regions):
            top, left, bottom, right = (int(value) for value in region.bbox)
            found.append(
                {
                    "id": first + len(found),
                    "image_id": image,
                    "category_id": int(index) + 1,
                    "segmentation": polygons(region.image, top, left),
                    "area": int(region.num_pixels),
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
            )
    return found


def polygons(region: np.ndarray, top: int = 0, left: int = 0) -> list[Polygon]:
    """Polygons of a 4-connected region (h, w) bool at (top, left), cut at its holes."""
    waiting, found = [(region, top, left)], []
    while waiting:
        part, top, left = waiting.pop()
        contours = measure.find_contours(np.pad(part, 1).astype(np.float32), 0.5, fully_connected="low")
        contours.sort(key=lambda contour: -np.ptp(contour[:, 0]))
        if len(contours) == 1:
            corners = measure.approximate_polygon(contours[0], TOLERANCE)[:-1] - 0.5  # padding: 1, pixel centre: 0.5
            found.append(np.stack([corners[:, 1] + left, corners[:, 0] + top], 1).round(3).ravel().tolist())
            continue
        row = int(contours[1][:, 0].mean()) - 1  # a row through the hole, so that cutting opens it
        waiting += _pieces(part[row:], top + row, left)
        waiting += _pieces(part[:row], top, left)
    return found


def _pieces(part: np.ndarray, top: int, left: int) -> Iterator[tuple[np.ndarray, int, int]]:
    for piece in measure.regionprops(measure.label(part, connectivity=1)):
        yield piece.image, top + int(piece.bbox[0]), left + int(piece.bbox[1])


def document(classes: Sequence[ClassInfo], images: Sequence[tuple[str, np.ndarray]]) -> dict[str, Any]:
    """The content of a COCO file for (file name, mask (H, W)) pairs."""
    listed: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, (name, mask) in enumerate(images, start=1):
        height, width = mask.shape
        listed.append({"id": number, "file_name": name, "height": height, "width": width})
        found += annotate(mask, number, len(found) + 1)
    return {"images": listed, "annotations": found, "categories": categories(classes)}


def rasterise(drawn: Sequence[Mapping[str, Any]], size: tuple[int, int], index_of: Mapping[int, int]) -> np.ndarray:
    """Rasterise one image's annotations, later ones on top → (H, W) uint8; 255 where there is none.

    index_of: category id → class index. ValueError if a shape is damaged.
    """
    mask = np.full(size, IGNORE, np.uint8)
    for annotation in drawn:
        shape = formats_coco.shape_of(annotation["segmentation"], "")
        if shape is not None:  # a point or a line has no area
            mask[painting.paint([shape], size, {"": 1}, False) == 1] = index_of[annotation["category_id"]]
    return mask
