"""Label Studio JSON: polygons, rectangles, ellipses and brush masks."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

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
from dualteacher.data.formats.file_kinds import is_image

KINDS = ("polygonlabels", "brushlabels", "rectanglelabels", "ellipselabels")


def new() -> Annotations:
    return Annotations("label-studio", "Label Studio JSON", smaller_on_top=False, labels_ordered=False)


def is_label_studio(content: Any) -> bool:
    entries = content if isinstance(content, list) else []
    return bool(entries) and all(isinstance(e, dict) and "data" in e and "annotations" in e for e in entries)


def add(into: Annotations, content: list[dict[str, Any]], source: str) -> None:
    """Read a file. Of several annotations of an image the ground truth counts, else the latest."""
    for task in content:
        done = [entry for entry in task["annotations"] if not entry.get("was_cancelled")]
        done.sort(key=lambda entry: bool(entry.get("ground_truth")))
        if len(done) > 1:
            into.left_out["earlier annotations of an image"] += len(done) - 1
        shapes: list[Shape] = []
        sizes: set[Size] = set()
        results = done[-1]["result"] if done else []
        for entry in results:
            shape = _shape(into, entry)
            if shape is not None:
                shapes.append(shape)
                sizes.add((int(entry["original_height"]), int(entry["original_width"])))
        if len(sizes) > 1:
            raise Wrong(f"task {task.get('id')} has several sizes of its image")
        into.add_labels([shape.label for shape in shapes])
        size = next(iter(sizes), None)
        into.images.append(Annotated(_name(task), source, shapes, size, empty_is_background=bool(done) and not results))


def _name(task: dict[str, Any]) -> str:
    """The image's path, from the address under which Label Studio serves it."""
    for value in task["data"].values():
        if isinstance(value, str):
            parts = urlsplit(value)
            path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
            if is_image(path):
                return str(PurePosixPath(path.replace("\\", "/").lstrip("/")))
    raise Wrong(f"task {task.get('id')} names no image")


def _shape(into: Annotations, entry: dict[str, Any]) -> Shape | None:
    """A result as a shape; coordinates are percentages of the image's size."""
    kind = entry["type"]
    if kind not in KINDS:
        into.left_out[f"results of type {kind}"] += 1
        return None
    value = entry["value"]
    if len(value.get(kind) or []) != 1:
        raise Wrong(f"a shape has {len(value.get(kind) or [])} labels")
    label = str(value[kind][0])
    if kind == "brushlabels":
        return Shape(label, mask=partial(run_lengths.packed, value["rle"]))
    scale = np.array([entry["original_width"], entry["original_height"]], float) / 100
    if kind == "polygonlabels":
        corners = ring(value["points"])
        return None if corners is None else Shape(label, [[corners * scale]])
    if kind == "rectanglelabels":
        into.rectangles += 1
        x, y, width, height = (float(value[key]) for key in ("x", "y", "width", "height"))
        corners = rectangle(x, y, x + width, y + height) * scale
        corners = turned(corners, float(value.get("rotation", 0)), corners[0])
    else:
        x, y, across, down = (float(value[key]) for key in ("x", "y", "radiusX", "radiusY"))
        corners = turned(ellipse(x, y, across, down) * scale, float(value.get("rotation", 0)))
    return Shape(label, [[corners]])
