"""contact_sheet.png: images of a prepared dataset with mask overlays and the class table.

Shows at a glance whether masks and images match.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from dualteacher.core.labels import IGNORE
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.pack import Pack
from dualteacher.system import files, fonts

SHOWN = {"train": 9, "val": 3}  # image pairs
COLUMNS = 3  # pairs per row
SIDE, GAP, MARGIN = 232, 20, 36  # pixels
OPACITY = 0.6
PAPER, INK, PALE = (255, 255, 255), (32, 36, 42), (118, 124, 132)


class Total(NamedTuple):
    """All images of a split: their number, and pixels by mask value (256,)."""

    images: int
    pixels: np.ndarray


def write(
    path: Path,
    packs: Mapping[str, Pack],
    pixels: pa.Table,
    classes: Sequence[ClassInfo],
    totals: Mapping[str, Total] | None = None,
) -> None:
    """Draw the sheet. pixels: the table of stats.parquet; totals: of all images, if the packs hold only some."""
    counts = {split: _counts(pack, split, pixels) for split, pack in packs.items()}
    cells = [(split, i) for split, pack in packs.items() for i in _choose(counts[split], SHOWN[split])]
    rows = -(-len(cells) // COLUMNS)
    width = 2 * MARGIN + COLUMNS * 2 * SIDE + (COLUMNS - 1) * GAP
    top, row_height, line = 108, SIDE + 34, 28
    legend_columns = max(1, (width - 2 * MARGIN) // 340)
    legend_rows = -(-(len(classes) + 1) // legend_columns)
    legend_top = top + rows * row_height + 44
    sheet = Image.new("RGB", (width, legend_top + legend_rows * line + MARGIN - 8), PAPER)
    draw = ImageDraw.Draw(sheet)
    images = {split: totals[split].images if totals else len(pack) for split, pack in packs.items()}
    numbers = f"{images['train']} training and {images['val']} validation images"
    _write(draw, (MARGIN, 30), packs["train"].dataset, INK, 26, bold=True)
    _write(draw, (MARGIN, 66), f"{numbers}, {len(classes)} classes", PALE, 15)
    for place, (split, i) in enumerate(cells):
        left = MARGIN + place % COLUMNS * (2 * SIDE + GAP)
        upper = top + place // COLUMNS * row_height
        _pair(sheet, packs[split], i, classes, left, upper)
        _write(draw, (left, upper + SIDE + 5), f"{split}  {packs[split].ids[i]}", PALE, 13)
    _write(draw, (MARGIN, legend_top - 34), "Share of pixels: training / validation", INK, 15, bold=True)
    named = [(info.name, info.color) for info in classes] + [("ignored", (0, 0, 0))]
    sums = {split: count.sum(0) for split, count in counts.items()}
    if totals:
        sums = {split: total.pixels[[*range(len(classes)), IGNORE]] for split, total in totals.items()}
    shares = {split: count / max(count.sum(), 1) for split, count in sums.items()}
    for index, (name, color) in enumerate(named):
        left = MARGIN + index // legend_rows * ((width - 2 * MARGIN) // legend_columns)
        upper = legend_top + index % legend_rows * line
        draw.rounded_rectangle((left, upper, left + 26, upper + 18), 4, color, outline=(180, 184, 190))
        share = " / ".join(f"{shares[split][index]:.1%}" for split in packs)
        _write(draw, (left + 36, upper), name, INK, 14)
        _write(draw, (left + 176, upper), share, PALE, 14)
    with files.atomic(path) as temporary:
        sheet.save(temporary, "PNG", optimize=True)


def _counts(pack: Pack, split: str, pixels: pa.Table) -> np.ndarray:
    """Pixels per image and class, (images, classes + 1); the last column is ignored pixels."""
    counts = np.zeros((len(pack), pack.num_classes + 1), np.int64)
    table = pixels.to_pydict()
    columns = (table[name] for name in ("split", "image_id", "class_index", "pixels"))
    for of, image_id, index, number in zip(*columns, strict=True):
        if of == split:
            counts[pack.index(image_id), -1 if index == IGNORE else index] = number
    return counts


def _choose(counts: np.ndarray, number: int) -> list[int]:
    """Choose images that contain many classes, preferring classes not chosen so far."""
    shares = np.sqrt(counts[:, :-1] / np.maximum(counts.sum(1, keepdims=True), 1))
    shown = np.ones(shares.shape[1])
    chosen: list[int] = []
    for _ in range(min(number, len(counts))):
        score = (shares / shown).sum(1)
        score[chosen] = -1
        chosen.append(int(score.argmax()))
        shown += 4 * shares[chosen[-1]]
    return chosen


def _pair(sheet: Image.Image, pack: Pack, i: int, classes: Sequence[ClassInfo], left: int, upper: int) -> None:
    """Draw the image and, next to it, its mask overlay."""
    image, mask = _shrunk(pack.picture(i), pack.mask(i))
    if mask is None:
        over = np.full_like(image, 235)
    else:
        palette = np.zeros((256, 3), np.float32)
        palette[: len(classes)] = [info.color for info in classes]
        over = (OPACITY * palette[mask] + (1 - OPACITY) * image).round().astype(np.uint8)
    scale = SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    for place, picture in enumerate((image, over)):
        sheet.paste(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), (left + place * SIDE, upper))


def _shrunk(image: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Reduce image and mask to about the sheet's scale, because blending large ones takes much memory."""
    factor = max(image.shape[:2]) // SIDE
    if factor < 2:
        return image, mask
    small = np.asarray(Image.fromarray(image).reduce(factor))
    if mask is None:
        return small, None
    size = (small.shape[1], small.shape[0])
    return small, np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    color: tuple[int, int, int],
    size: int,
    bold: bool = False,
) -> None:
    font, shown = fonts.choose(text, size, bold)
    draw.text(place, shown, color, font)
