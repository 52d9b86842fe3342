"""Names and colours of a dataset's classes, for what is drawn or written for people.

Prepared images, partitions and training know a class by its index alone, so that a new name or colour reruns none of
them. The stage `classes` writes the table of a dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dualteacher.system import paths
from dualteacher.system.errors import UserError


class ClassInfo(NamedTuple):
    """A class's name and colour (r, g, b); its index is its position in the class table."""

    name: str
    color: tuple[int, int, int]


def as_json(classes: Sequence[ClassInfo]) -> list[dict[str, Any]]:
    """The class table as JSON values: the content of classes.json."""
    return [{"index": i, "name": name, "color": list(color)} for i, (name, color) in enumerate(classes)]


def of_json(listed: Iterable[Mapping[str, Any]]) -> list[ClassInfo]:
    """The inverse of `as_json`; KeyError, TypeError or ValueError for other values."""
    entries = sorted(listed, key=lambda entry: entry["index"])
    return [ClassInfo(str(entry["name"]), tuple(int(part) for part in entry["color"])) for entry in entries]  # type: ignore[arg-type]


def read(dataset: str) -> list[ClassInfo]:
    """The classes of a dataset; UserError if its table is missing or invalid."""
    path, command = paths.Dataset(dataset).classes, f"python -m dualteacher classes --dataset {dataset}"
    try:
        return of_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; create it with `{command}`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a valid class table ({error!r}); recreate it with `{command}`") from None


def unnamed(count: int) -> list[ClassInfo]:
    """Classes of which only the number is known: class 0, class 1, …"""
    return [ClassInfo(f"class {index}", voc_color(index)) for index in range(count)]


def voc_color(index: int) -> tuple[int, int, int]:
    """PASCAL VOC's colour map: the index's bits go to r, g, b in turn, filling each channel from its highest bit."""
    color = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            color[channel] |= (index >> (3 * place + channel) & 1) << (7 - place)
    return color[0], color[1], color[2]
