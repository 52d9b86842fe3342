"""CVAT XML ("CVAT for images 1.1"): polygons, rectangles, ellipses and masks."""

from __future__ import annotations

from functools import partial
from xml.etree import ElementTree

import numpy as np

from dualteacher.data.formats.annotations import run_lengths
from dualteacher.data.formats.annotations.shapes import (
    Annotated,
    Annotations,
    Shape,
    Size,
    Wrong,
    ellipse,
    rectangle,
    ring,
    turned,
)

Element = ElementTree.Element


def new() -> Annotations:
    return Annotations("cvat", "CVAT XML", smaller_on_top=False)


def is_cvat(root: Element) -> bool:
    return root.tag == "annotations" and (root.find("image") is not None or root.find("track") is not None)


def add(into: Annotations, root: Element, source: str) -> None:
    """Read a file. An image without shapes may be one that nobody has annotated yet: CVAT lists all of a task's."""
    if root.find("track") is not None:
        raise Wrong("it holds the tracks of a video; export it as “CVAT for images”")
    for label in root.iterfind("meta//labels/label"):
        name, color = label.findtext("name") or "", label.findtext("color") or ""
        into.add_labels([name])
        if len(color) == 7 and color.startswith("#"):
            into.colors[name] = list(bytes.fromhex(color[1:]))
    for image in root.iterfind("image"):
        entries = sorted(image, key=lambda entry: int(entry.get("z_order", 0)))
        shapes = [shape for entry in entries if (shape := _shape(into, entry)) is not None]
        into.add_labels([shape.label for shape in shapes])
        size = int(_of(image, "height")), int(_of(image, "width"))
        into.images.append(Annotated(_of(image, "name").replace("\\", "/"), source, shapes, size))


def _of(entry: Element, key: str) -> str:
    return entry.attrib[key]


def _shape(into: Annotations, entry: Element) -> Shape | None:
    def numbers(*keys: str) -> list[float]:
        return [float(_of(entry, key)) for key in keys]

    corners = None
    if entry.tag == "mask":
        left, top, width, height = (int(value) for value in numbers("left", "top", "width", "height"))
        counts = [int(count) for count in _of(entry, "rle").split(",")]
        return Shape(_of(entry, "label"), mask=partial(_placed, counts, (top, left), (height, width)))
    if entry.tag == "polygon":
        corners = ring([pair.split(",") for pair in _of(entry, "points").split(";")])
    elif entry.tag == "box":
        into.rectangles += 1
        corners = turned(rectangle(*numbers("xtl", "ytl", "xbr", "ybr")), float(entry.get("rotation", 0)))
    elif entry.tag == "ellipse":
        corners = turned(ellipse(*numbers("cx", "cy", "rx", "ry")), float(entry.get("rotation", 0)))
    elif entry.tag != "tag":
        into.left_out[f"shapes of type {entry.tag}"] += 1
    return None if corners is None else Shape(_of(entry, "label"), [[corners]])


def _placed(counts: list[int], corner: tuple[int, int], part: Size, size: Size) -> np.ndarray:
    """Run lengths of a rectangle with its upper left pixel at corner (row, column) → (H, W) bool."""
    (top, left), out = corner, np.zeros(size, bool)
    if min(top, left, *part) < 0 or top + part[0] > size[0] or left + part[1] > size[1]:
        raise Wrong("a mask reaches beyond the image")
    out[top : top + part[0], left : left + part[1]] = run_lengths.alternating(counts, part)
    return out
