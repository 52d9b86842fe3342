"""YOLO segmentation: a text file per image, one line per polygon; names in data.yaml or classes.txt."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from dualteacher.data.formats.annotations.shapes import Annotated, Annotations, Shape, Wrong, ring
from dualteacher.system.errors import UserError

LINE = re.compile(r"\d+(\s+[-+.\deE]+){4,}\s*")
LISTS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "classes.txt", "labels/classes.txt", "obj.names")


def new() -> Annotations:
    return Annotations("yolo", "YOLO segmentation", smaller_on_top=True)


def label_files(names: Iterable[str], texts: Iterable[str]) -> dict[str, str]:
    """Image → its text file: beside it, or at the same place with `labels` for `images`."""
    there = set(texts)
    found = {}
    for name in names:
        path = PurePosixPath(name).with_suffix(".txt")
        places = [path]
        for index, part in enumerate(path.parts[:-1]):
            if part.lower() in ("images", "img"):
                places.append(PurePosixPath(*path.parts[:index], "labels", *path.parts[index + 1 :]))
        text = next((str(place) for place in places if str(place) in there), None)
        if text is not None:
            found[name] = text
    return found


def is_yolo(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and all(LINE.fullmatch(line.strip()) for line in lines)


def class_names(root: Path) -> tuple[dict[int, str], str | None]:
    """(name by number, the file that gives them)."""
    for listed in LISTS:
        path = root / listed
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
            content: Any = yaml.safe_load(text)["names"] if "yaml" in path.suffix or "yml" in path.suffix else text
            if isinstance(content, str):
                content = [line.strip() for line in content.splitlines() if line.strip()]
            pairs = content.items() if isinstance(content, dict) else enumerate(content)
            return {int(number): str(name) for number, name in pairs}, listed
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
            raise UserError(f"{path}: no class names found; it needs `names: [first, second, …]`") from None
    return {}, None


def add(into: Annotations, text: str, source: str, image: str, names: dict[int, str]) -> None:
    """Read a file; an empty one means background only."""
    shapes = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        if not LINE.fullmatch(line.strip()):
            raise Wrong(f"line {number} is not a class and coordinates")
        first, *values = line.split()
        if len(values) == 4:
            into.left_out["boxes without an outline"] += 1
            continue
        if names and int(first) not in names:
            raise Wrong(f"line {number} is of class {first}, which the list of names lacks")
        try:
            corners = ring([float(value) for value in values])
        except ValueError:
            raise Wrong(f"line {number}: not x, y, x, y, … as shares of the width and height") from None
        if corners is not None:
            if corners.min() < -0.5 or corners.max() > 1.5:
                raise Wrong(f"line {number}: coordinates are shares of the width and height, 0…1")
            shapes.append(Shape(names.get(int(first), f"class_{first}"), [[corners]]))
    into.images.append(Annotated(image, source, shapes, relative=True, empty_is_background=not text.strip()))
