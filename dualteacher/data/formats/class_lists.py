"""Class names in the files that annotation tools write beside their masks."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dualteacher.system.errors import UserError

Entries = list[dict[str, Any]]  # name, and perhaps value (an index) or color


def read(root: Path) -> tuple[Entries, str]:
    """(entries, the file's name) of the first list below `root` that names classes; ([], "") if there is none."""
    for name, reader in READERS.items():
        for path in (root / name, *sorted(root.glob(f"*/{name}"))):
            try:
                if path.is_file() and (entries := reader(path.read_text(encoding="utf-8-sig"))):
                    return entries, path.relative_to(root).as_posix()
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                raise UserError(
                    f"{path}: cannot be read as a list of classes ({error}); correct or remove it"
                ) from None
    return [], ""


def _roboflow(text: str) -> Entries:
    """`Pixel Value, Class`, then one class per row."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
    return [{"name": row[1], "value": int(row[0])} for row in rows[1:]]


def _cvat(text: str) -> Entries:
    """`label:color_rgb:parts:actions` of CVAT's Pascal VOC export; the order is that of indices."""
    lines = [line.split(":") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [{"name": line[0], "color": [int(part) for part in line[1].split(",")]} for line in lines if line[1]]


def _labelme(text: str) -> Entries:
    """One name per line, as labelme2voc writes it."""
    lines = [line.strip() for line in text.splitlines()]
    return [{"name": line.strip("_") or line} for line in lines if line and line != "__ignore__"]


def _nnunet(text: str) -> Entries:
    """`labels` of dataset.json: name to index, or index to name in version 1."""
    content = json.loads(text)
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict):
        return []
    pairs = [(value, int(name)) if name.isdecimal() else (name, value) for name, value in labels.items()]
    if not all(isinstance(value, int) for _, value in pairs):  # another program's file, or regions of several values
        return []
    return [{"name": name, "value": value} for name, value in pairs if name != "ignore"]


def _supervisely(text: str) -> Entries:
    """Name to grey value, three times; 0 is the background."""
    entries = [{"name": name, "value": color[0]} for name, color in json.loads(text).items()]
    background = [] if any(entry["value"] == 0 for entry in entries) else [{"name": "background", "value": 0}]
    return [*background, *entries]


READERS: dict[str, Callable[[str], Entries]] = {
    "_classes.csv": _roboflow,
    "labelmap.txt": _cvat,
    "class_names.txt": _labelme,
    "dataset.json": _nnunet,
    "obj_class_to_machine_color.json": _supervisely,
}
