"""COCO JSON: polygons and run lengths."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath
from typing import Any

from dualteacher.data.formats.annotations import run_lengths
from dualteacher.data.formats.annotations.shapes import Annotated, Annotations, Shape, Wrong, ring


def new() -> Annotations:
    return Annotations("coco", "COCO JSON", smaller_on_top=True)


def is_coco(content: Any) -> bool:
    keys = ("images", "annotations", "categories")
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in keys)


def add(into: Annotations, content: dict[str, Any], source: str) -> None:
    """Read a file. An image that is listed without annotations shows background only, as COCO defines it."""
    names = {entry["id"]: str(entry["name"]) for entry in sorted(content["categories"], key=lambda entry: entry["id"])}
    into.add_labels([*names.values()])
    shapes: dict[Any, list[Shape]] = {entry["id"]: [] for entry in content["images"]}
    boxed = set()
    for entry in content["annotations"]:
        if entry["image_id"] not in shapes:
            raise Wrong(f"an annotation belongs to image {entry['image_id']}, which is not listed")
        if entry["category_id"] not in names:
            raise Wrong(f"an annotation is of category {entry['category_id']}, which is not listed")
        shape = shape_of(entry.get("segmentation"), names[entry["category_id"]])
        if shape is None:
            into.left_out["boxes without an outline"] += 1
            boxed.add(entry["image_id"])
        else:
            shapes[entry["image_id"]].append(shape)
    for entry in content["images"]:
        name = str(entry["file_name"]).replace("\\", "/")
        size = (int(entry["height"]), int(entry["width"])) if entry.get("height") and entry.get("width") else None
        background = entry["id"] not in boxed
        into.images.append(
            Annotated(str(PurePosixPath(name)), source, shapes[entry["id"]], size, empty_is_background=background)
        )


def shape_of(segmentation: Any, label: str) -> Shape | None:
    """A `segmentation` as a shape; None if it is empty or has no area; Wrong if it is damaged."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), list | str):
        return Shape(label, mask=partial(run_lengths.coco, segmentation["counts"]))
    if not isinstance(segmentation, list):
        raise Wrong("a segmentation is neither polygons nor run lengths")
    if not isinstance(segmentation[0], list):
        segmentation = [segmentation]  # some tools write a single polygon without the list around it
    rings = [corners for polygon in segmentation if (corners := ring(polygon)) is not None]
    return Shape(label, [[corners] for corners in rings]) if rings else None
