"""labelme JSON: one file per image, beside it or in a folder of its own."""

from __future__ import annotations

import base64
import binascii
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from dualteacher.data.formats import mask_files
from dualteacher.data.formats.annotations.shapes import Annotated, Annotations, Shape, Size, Wrong, ellipse, rectangle
from dualteacher.data.formats.annotations.shapes import ring as ring_of


def new() -> Annotations:
    return Annotations("labelme", "labelme JSON", smaller_on_top=False, labels_ordered=False)


def is_labelme(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def add(into: Annotations, content: dict[str, Any], source: str) -> None:
    """Read a file. Rectangles and circles are areas too, as in labelme's own export; lines and points are not."""
    shapes = []
    for entry in content["shapes"]:
        shape = _shape(into, entry)
        if shape is None:
            into.left_out[f"shapes of type {entry.get('shape_type')}"] += 1
        else:
            shapes.append(shape)
    into.add_labels([shape.label for shape in shapes])
    size = content.get("imageHeight"), content.get("imageWidth")
    path = str(content["imagePath"] or "").replace("\\", "/")
    name = path or PurePosixPath(source).with_suffix(".jpg").name
    known = (int(size[0]), int(size[1])) if size[0] and size[1] else None
    into.images.append(Annotated(name, source, shapes, known))


def _shape(into: Annotations, entry: dict[str, Any]) -> Shape | None:
    kind, label, points = entry.get("shape_type") or "polygon", str(entry["label"]), entry["points"]
    if kind == "mask":
        (left, top), _ = points
        return Shape(label, mask=partial(_stored, entry["mask"], (round(top), round(left))))
    if kind == "polygon":
        corners = ring_of(points)
    elif kind == "rectangle" and len(points) == 2:
        into.rectangles += 1
        xs, ys = zip(*points, strict=True)
        corners = rectangle(min(xs), min(ys), max(xs), max(ys))
    elif kind == "circle" and len(points) == 2:
        (x, y), (other_x, other_y) = points
        radius = float(np.hypot(other_x - x, other_y - y))
        corners = ellipse(x, y, radius, radius)
    else:
        return None
    return None if corners is None else Shape(label, [[corners]])


def _stored(text: str, corner: tuple[int, int], size: Size) -> np.ndarray:
    """A PNG in base64 with its upper left pixel at corner (row, column) → (H, W) bool."""
    try:
        part = mask_files.read_values(base64.b64decode(text), color=False).values > 0
    except (binascii.Error, TypeError, ValueError):
        raise Wrong("a shape's mask is not a PNG in base64") from None
    out, (top, left) = np.zeros(size, bool), corner
    if top < 0 or left < 0:
        raise Wrong("a shape's mask begins outside the image")
    part = part[: size[0] - top, : size[1] - left]
    out[top : top + part.shape[0], left : left + part.shape[1]] = part
    return out
