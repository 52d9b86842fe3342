"""Predictions on a few images: a sheet (PNG), and its pictures as a table for the report's page.

The sheet has one row per image, with columns image | truth | prediction | errors.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image, ImageDraw
from skimage.color import label2rgb, rgb2gray
from skimage.segmentation import find_boundaries
from skimage.util import montage

from dualteacher.core.labels import IGNORE
from dualteacher.data.class_table import ClassInfo
from dualteacher.system import files, fonts, sealed

SIDE = 384  # longest side of a picture in the table, pixels; smaller images keep their size
CELL = 216  # longest side of a picture on the sheet, pixels
GAP, MARGIN, HEADER = 10, 20, 30
PAPER, INK, MUTED, WRONG = (255, 255, 255), (28, 33, 40), (93, 102, 115), (213, 94, 0)
COLUMNS = ("image", "truth", "prediction", "errors")
PICTURES = ("image_id", "right", "image", "truth", "prediction")  # columns of the table


class Row(NamedTuple):
    """An image with its two masks; a plain tuple (image, truth, prediction) works too."""

    image: np.ndarray  # (H, W, 3) uint8
    truth: np.ndarray  # (H, W) class index, or IGNORE
    prediction: np.ndarray  # (H, W) class index


def render(rows: Iterable[Sequence[np.ndarray]], classes: Sequence[ClassInfo], path: Path) -> None:
    """Write the sheet as PNG. The same rows give the same bytes.

    The error map shows wrong pixels in orange on the grey image, pixels without truth striped, and the share of correct
    pixels. The legend lists the classes that occur.
    """
    pictures: list[np.ndarray] = []
    scores: list[float] = []
    seen: set[int] = set()
    for row in rows:
        image, truth, prediction = (np.asarray(part) for part in row[:3])
        truth, prediction = truth.astype(np.int64), prediction.astype(np.int64)
        scores.append(right(truth, prediction))
        seen |= {*np.unique(truth).tolist(), *np.unique(prediction).tolist()} - {IGNORE}
        pictures += [_cell(picture) for picture in _pictures(image, truth, prediction, classes)]
    if not pictures:
        raise ValueError("a gallery needs at least one image")
    sheet = _sheet(pictures, scores, [classes[index] for index in sorted(seen)])
    with files.atomic(path) as temporary:
        sheet.save(temporary, format="PNG")


def save(names: Sequence[str], rows: Iterable[Sequence[np.ndarray]], classes: Sequence[ClassInfo], path: Path) -> None:
    """Write the pictures as Parquet, one row per image. The same rows give the same bytes.

    Columns: image_id; right, the share of correct pixels at full size; image, JPEG; truth and prediction, palette PNGs
    in the classes' colours, where index len(classes) means no truth and is transparent. Pictures are scaled down to at
    most SIDE pixels.
    """
    table = []
    for name, row in zip(names, rows, strict=True):
        image, truth, prediction = (np.asarray(part) for part in row[:3])
        shown = Image.fromarray(image)
        shown.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        photo = io.BytesIO()
        shown.save(photo, format="JPEG", quality=88)
        masks = [_mask(mask, shown.size, classes) for mask in (truth, prediction)]
        table.append((name, right(truth, prediction), photo.getvalue(), *masks))
    frame = pd.DataFrame(table, columns=list(PICTURES))
    sealed.write_table(path, pa.Table.from_pandas(frame, preserve_index=False))


def right(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Share of correct pixels among those with truth; NaN if there are none."""
    known = truth != IGNORE
    return float((truth == prediction)[known].mean()) if known.any() else float("nan")


def _mask(mask: np.ndarray, size: tuple[int, int], classes: Sequence[ClassInfo]) -> bytes:
    """A mask as a palette PNG of `size` (width, height)."""
    unknown = len(classes)
    indices = _nearest(np.where(mask == IGNORE, unknown, mask), size).astype(np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette([part for entry in classes for part in entry.color] + [0, 0, 0])
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", transparency=unknown, optimize=True)
    return buffer.getvalue()


def _pictures(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, classes: Sequence[ClassInfo]
) -> list[np.ndarray]:
    """A row's four pictures, (h, w, 3) floats in [0, 1], at the sheet's scale."""
    height, width = truth.shape
    scale = CELL / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    smooth = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    image = np.asarray(Image.fromarray(image).resize(size, smooth)) / 255.0
    truth, prediction = (_nearest(mask, size) for mask in (truth, prediction))
    known = truth != IGNORE
    grey = np.repeat(0.25 + 0.6 * rgb2gray(image)[..., None], 3, axis=2)
    errors = np.where((known & (truth != prediction))[..., None], 0.2 * grey + 0.8 * np.array(WRONG) / 255, grey)
    errors[~known] = _stripes(errors.shape)[~known]
    return [image, _overlay(image, truth, classes), _overlay(image, prediction, classes), errors]


def _nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask.astype(np.int32)).resize(size, Image.Resampling.NEAREST)).astype(np.int64)


def _overlay(image: np.ndarray, mask: np.ndarray, classes: Sequence[ClassInfo]) -> np.ndarray:
    """Class colours over the image, dark lines between classes, ignored pixels striped."""
    present = [index for index in np.unique(mask) if index != IGNORE]
    if not present:
        return _stripes(image.shape)
    colors = [
        np.array(classes[index].color) / 255.0 for index in present
    ]  # label2rgb takes one colour per label present
    picture = label2rgb(mask, image, colors, alpha=0.75, bg_label=IGNORE, saturation=1.0)
    picture[find_boundaries(mask, mode="inner")] *= 0.62
    picture[mask == IGNORE] = _stripes(picture.shape)[mask == IGNORE]
    return picture


def _stripes(shape: tuple[int, ...]) -> np.ndarray:
    """Light diagonal stripes, (h, w, 3) floats in [0, 1]."""
    y, x = np.indices(shape[:2])
    return np.repeat(np.where((x + y) % 8 < 4, 0.93, 0.8)[..., None], 3, axis=2)


def _cell(picture: np.ndarray) -> np.ndarray:
    """Centre a picture on a white square."""
    cell = np.ones((CELL, CELL, 3))
    top, left = (CELL - picture.shape[0]) // 2, (CELL - picture.shape[1]) // 2
    cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return cell


def _sheet(pictures: list[np.ndarray], scores: list[float], legend: Sequence[ClassInfo]) -> Image.Image:
    """Montage with column titles, scores and legend."""
    grid = montage(
        np.stack(pictures),
        grid_shape=(len(scores), len(COLUMNS)),
        padding_width=GAP,
        fill=(1.0, 1.0, 1.0),
        channel_axis=-1,
    )
    body = Image.fromarray((255 * np.clip(grid, 0, 1)).round().astype(np.uint8))
    wrong = ClassInfo("wrong", WRONG)
    entries, legend_height = _flow([*legend, wrong, ClassInfo("no truth", (222, 222, 222))], body.width)
    sheet = Image.new("RGB", (body.width + 2 * MARGIN, HEADER + body.height + legend_height + 2 * MARGIN), PAPER)
    sheet.paste(body, (MARGIN, MARGIN + HEADER))
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(COLUMNS):
        left = MARGIN + GAP + column * (CELL + GAP)
        draw.text((left, MARGIN + HEADER - 4), title, INK, fonts.choose(title, 15)[0], anchor="ls")
    for row, score in enumerate(scores):
        text = "no truth" if np.isnan(score) else f"{100 * score:.0f} % right"
        right, bottom = MARGIN + 4 * (CELL + GAP) - 6, MARGIN + HEADER + (row + 1) * (CELL + GAP) - 6
        font, _ = fonts.choose(text, 12)
        box = draw.textbbox((right, bottom), text, font, anchor="rs")
        draw.rounded_rectangle((box[0] - 5, box[1] - 3, box[2] + 5, box[3] + 4), 4, PAPER)
        draw.text((right, bottom), text, INK, font, anchor="rs")
    for left, top, entry in entries:
        x, y = MARGIN + GAP + left, MARGIN + HEADER + body.height + top
        draw.rounded_rectangle((x, y + 4, x + 13, y + 17), 3, tuple(entry.color), outline=(150, 155, 162))
        font, name = fonts.choose(entry.name, 13)
        draw.text((x + 19, y + 15), name, MUTED, font, anchor="ls")
    return sheet


def _flow(legend: Sequence[ClassInfo], width: int) -> tuple[list[tuple[int, int, ClassInfo]], int]:
    """Lay out the legend line by line: (left, top, class) per entry, and the total height, pixels."""
    placed: list[tuple[int, int, ClassInfo]] = []
    left = top = 0
    for entry in legend:
        font, name = fonts.choose(entry.name, 13)
        needed = 19 + round(font.getlength(name)) + 18
        if left and left + needed > width - 2 * GAP:
            left, top = 0, top + 24
        placed.append((left, top, entry))
        left += needed
    return placed, top + 24
