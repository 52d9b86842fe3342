"""The folder that `suggest` writes and `accept` reads."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dualteacher.core.labels import IGNORE
from dualteacher.data import class_table
from dualteacher.data.class_table import ClassInfo
from dualteacher.labelling import coco
from dualteacher.labelling.observe import Observer
from dualteacher.labelling.selection import Chosen
from dualteacher.system import files
from dualteacher.system.errors import UserError

RECORD, TABLE, COCO, CLASSES = "suggest.json", "suggested.csv", "annotations.json", "classes.json"


@dataclass(frozen=True)
class Suggestion:
    """What `accept` needs to know about a folder that `suggest` wrote."""

    folder: Path
    dataset: str
    classes: list[str]
    colors: list[list[int]]  # of the classes, as the suggested masks show them
    rows: list[dict[str, str]]  # of suggested.csv


def write(
    output: Path,
    observer: Observer,
    classes: Sequence[ClassInfo],
    chosen: Chosen,
    threshold: float,
    record: dict[str, Any],
) -> None:
    """Write images, index masks, COCO annotations, class lists, the table and `record`.

    threshold: pixels with lower confidence are 255 in the masks and in no polygon.
    """
    pack = observer.pack
    table: list[dict[str, Any]] = []
    documents: list[tuple[str, np.ndarray]] = []
    for rank, (row, (label, confidence)) in enumerate(
        zip(chosen.rows, observer.labels(chosen.rows), strict=True), start=1
    ):
        name, data = pack.ids[row], pack.encoded(row).to_pybytes()
        mask = np.where(confidence >= threshold, label, IGNORE).astype(np.uint8)
        image = f"{name}{'.jpg' if data.startswith(bytes([0xFF, 0xD8])) else '.png'}"
        files.write_bytes(output / "images" / image, data)
        files.write_bytes(output / "masks" / f"{name}.png", palette_png(mask, classes))
        documents.append((image, mask))
        scores = {"uncertainty": 1 - float(confidence.mean())}
        scores |= {key: float(values[rank - 1]) for key, values in chosen.scores.items()}
        written = {key: f"{value:.6f}" for key, value in scores.items()}
        table.append({"rank": rank, "image_id": name, "image": image, **written, "mask_sha256": mask_hash(mask)})
    files.write_json(output / COCO, coco.document(classes, documents))
    files.write_json(output / CLASSES, class_table.as_json(classes))
    labels = [{"name": c.name, "color": "#{:02x}{:02x}{:02x}".format(*c.color), "attributes": []} for c in classes]
    files.write_json(output / "cvat_labels.json", labels)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    files.write_text(output / TABLE, text.getvalue())
    files.write_json(output / RECORD, record)


def read(folder: Path) -> Suggestion:
    """Read the record, the table and the class list."""
    expected = "a folder written by `suggest`"
    dataset = read_json(folder / RECORD, expected)["cell"]["dataset"]
    with open(folder / TABLE, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = read_json(folder / CLASSES, expected)
    return Suggestion(folder, dataset, [c["name"] for c in classes], [c["color"] for c in classes], rows)


def read_json(path: Path, expected: str) -> Any:
    """Read JSON; the UserError for a missing file says what was `expected`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected {expected}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None


def palette_png(mask: np.ndarray, classes: Sequence[ClassInfo]) -> bytes:
    """Encode class indices (H, W) as a PNG with the classes' colours; 255 is white."""
    picture, file = Image.fromarray(mask), io.BytesIO()
    picture.putpalette(suggested_palette([info.color for info in classes]).tobytes())
    picture.save(file, "PNG")
    return file.getvalue()


def suggested_palette(colors: Sequence[Sequence[int]]) -> np.ndarray:
    """(256, 3) uint8."""
    palette = np.zeros((256, 3), np.uint8)
    palette[IGNORE] = 255
    palette[: len(colors)] = colors
    return palette


def mask_hash(mask: np.ndarray) -> str:
    """Hash a mask's pixels, so that a corrected mask differs and a re-encoded file does not."""
    return hashlib.sha256(repr(mask.shape).encode() + np.ascontiguousarray(mask, np.int32).tobytes()).hexdigest()
