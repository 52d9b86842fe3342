"""What every annotation format is read into: shapes in pixel coordinates, by image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Size = tuple[int, int]  # H, W


class Wrong(ValueError):
    """An annotation is damaged; the message says how, in a few words."""


@dataclass(frozen=True)
class Shape:
    """An area of one class: the union of its polygons, or a mask.

    polygons: each a list of rings (n, 2), x right and y down; (0, 0) is the corner of the first pixel. Holes are rings.
    mask: image size → (H, W) bool, decoded when needed; raises Wrong.
    """

    label: str
    polygons: Sequence[Sequence[np.ndarray]] = ()
    mask: Callable[[Size], np.ndarray] | None = None


@dataclass(frozen=True)
class Annotated:
    """The shapes of one image, in the order in which they are drawn."""

    name: str  # of the image, as the file spells it
    source: str  # the annotation file, relative to the dataset's folder
    shapes: list[Shape]
    size: Size | None = None  # None: not stated
    relative: bool = False  # coordinates are shares of the image's width and height
    empty_is_background: bool = False  # what the format says of an image without shapes


@dataclass
class Annotations:
    """The annotation files of one format."""

    key: str  # in the name of the folder of masks
    title: str
    smaller_on_top: bool  # else shapes are in drawing order
    images: list[Annotated] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)  # in class order; used or not
    colors: dict[str, list[int]] = field(default_factory=dict)
    labels_ordered: bool = True  # the format orders its labels; else they are sorted
    rectangles: int = 0  # taken as areas
    left_out: Counter[str] = field(default_factory=Counter)  # what has no area, by kind
    sources: list[str] = field(default_factory=list)

    def add_labels(self, labels: Sequence[str]) -> None:
        self.labels += [label for label in dict.fromkeys(labels) if label not in self.labels]


def ring(values: Any) -> np.ndarray | None:
    """Corners (n, 2) from x, y, x, y, … or from pairs; None for fewer than three, which have no area."""
    try:
        corners = np.asarray(values, float).reshape(-1, 2)
    except (TypeError, ValueError):
        raise Wrong("a polygon is not a list of x, y, x, y, …") from None
    if not np.isfinite(corners).all():
        raise Wrong("a polygon is not a list of x, y, x, y, …")
    return corners if len(corners) >= 3 else None


def turned(corners: np.ndarray, degrees: float, around: np.ndarray | None = None) -> np.ndarray:
    """Corners turned clockwise around a point, their centre by default."""
    center = corners.mean(0) if around is None else around
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return (corners - center) @ np.array([[cos, sin], [-sin, cos]]) + center


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)


def ellipse(x: float, y: float, across: float, down: float) -> np.ndarray:
    """A polygon of 128 corners; across and down: the radii."""
    angle = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    return np.stack([x + across * np.cos(angle), y + down * np.sin(angle)], 1)
