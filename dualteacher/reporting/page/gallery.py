"""The page's gallery: each figure compares two of: image, ground truth, the runs' predictions.

Images are embedded once. Masks are embedded as stored in gallery.parquet, PNGs of a few hundred bytes that the
browser overlays on the image, so a hundred runs fit on the page.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from dualteacher.data.class_table import ClassInfo
from dualteacher.reporting import tables
from dualteacher.reporting.results import Results, Run, spoken

BUDGET = 6_000_000  # bytes of encoded images in the page
WRONG = (213, 94, 0)


@dataclass(frozen=True)
class Layer:
    """A run's prediction on one image, and its errors."""

    key: str  # identifies the run
    name: str
    prediction: str  # data URI
    errors: str  # data URI
    score: str


@dataclass(frozen=True)
class GalleryPicture:
    """One validation image with all its overlays."""

    name: str
    width: int
    height: int
    image: str  # data URI
    truth: str  # data URI
    content: str  # the ground truth in words
    layers: Sequence[Layer]


@dataclass(frozen=True)
class Gallery:
    """The pictures of one dataset and partition, and the runs to choose from."""

    heading: str
    runs: Sequence[tuple[str, Sequence[tuple[str, str]]]]  # method, its runs as (key, label)
    pictures: Sequence[GalleryPicture]
    legend: Sequence[tuple[str, str]]  # class, CSS colour
    left_out: Sequence[str] = ()  # gallery.png of the runs over BUDGET


@dataclass(frozen=True)
class Picture:
    """One picture of `Difference`."""

    uri: str
    width: int
    height: int
    caption: str
    alt: str
    mask: bool = True


@dataclass(frozen=True)
class Difference:
    """The images on which two methods differ most: a row of image, ground truth and both predictions each."""

    methods: tuple[str, str]  # the baseline and the best other method
    seed: int
    place: str  # "" or " of <dataset>, <partition>"
    rows: Sequence[Sequence[Picture]]
    legend: Sequence[tuple[str, str]]  # class, CSS colour


SHOWN = 3  # rows of Difference


def difference(results: Results) -> Difference | None:
    """The report's first pictures, from the first dataset and partition; None if there are no two methods.

    Compares the baseline (without it, the second best method) with the best other method by mean mIoU, first seed of
    both. Images with the largest share of differing pixels come first, whichever method is right there.
    """
    field = results.fields[0]
    by_method = results.by_method(*field)
    best = sorted(by_method, key=lambda method: -np.mean([run.metrics["miou"] for run in by_method[method]]))
    baseline = results.settings.report.baseline
    others = [method for method in best if method != baseline]
    if len(best) < 2:
        return None
    one, other = (baseline, others[0]) if baseline in by_method else (others[1], others[0])
    runs = by_method[one][0], by_method[other][0]
    classes = results.classes[field[0]]
    masks = [[_indices(content) for content in run.pictures["prediction"]] for run in runs]
    truths = [_indices(content) for content in runs[0].pictures["truth"]]
    apart = [
        float((a != b)[truth < len(classes)].mean()) if (truth < len(classes)).any() else 0.0
        for a, b, truth in zip(*masks, truths, strict=True)
    ]
    order = sorted(range(len(apart)), key=lambda i: -apart[i])[:SHOWN]
    seen = set(np.unique(np.concatenate([part[i].ravel() for part in (*masks, truths) for i in order])))
    return Difference(
        (spoken(one), spoken(other)),
        runs[0].cell.seed,
        f" of {', '.join(field)}" if len(results.fields) > 1 else "",
        [_row(i, truths[i].shape, runs) for i in order],
        _legend(classes, seen),
    )


def _row(index: int, shape: tuple[int, ...], runs: Sequence[Run]) -> list[Picture]:
    """Image, ground truth and the predictions of `runs` on one image of the gallery."""
    first = runs[0].pictures.iloc[index]
    height, width = shape
    name = str(first["image_id"])
    made = [
        Picture(_uri(first["image"], "jpeg"), width, height, name, f"Validation image {name}", mask=False),
        Picture(_uri(first["truth"], "png"), width, height, "ground truth", f"Ground truth of {name}"),
    ]
    for run in runs:
        row, method = run.pictures.iloc[index], spoken(run.cell.method)
        text = f"{method}: {_score(row['right'])}"
        made.append(Picture(_uri(row["prediction"], "png"), width, height, text, f"Prediction on {name}, {text}"))
    return made


def galleries(results: Results, headings: dict[tuple[str, str], str]) -> list[Gallery]:
    """A gallery for each dataset and partition; BUDGET is spent on every method's first seed before any second."""
    left, made = BUDGET, []
    seeds = results.settings.grid.seed
    room: dict[tuple[str, str], list[Run]] = {field: [] for field in results.fields}
    for field in results.fields:
        left -= sum(len(content) for content in _of(results, field)[0].pictures["image"]) * 4 // 3
    for seed in seeds:
        for field in results.fields:
            for run in (run for run in _of(results, field) if run.cell.seed == seed):
                size = sum(len(content) for content in run.pictures["prediction"]) * 2
                if size <= left:
                    room[field].append(run)
                left -= size
    for field in results.fields:
        made.append(_gallery(headings[field], _of(results, field), room[field], results.classes[field[0]]))
    return made


def _of(results: Results, field: tuple[str, str]) -> list[Run]:
    return [run for runs in results.by_method(*field).values() for run in runs]


def _gallery(heading: str, all_runs: Sequence[Run], room: Sequence[Run], classes: Sequence[ClassInfo]) -> Gallery:
    """Runs in the table's order; `room`: those within BUDGET."""
    shown = [run for run in all_runs if run in room]
    by_method: dict[str, list[tuple[str, str]]] = {}
    for run in shown:
        by_method.setdefault(spoken(run.cell.method), []).append((_key(run), f"seed {run.cell.seed}"))
    seen: set[int] = set()
    pictures = []
    for i, row in enumerate(all_runs[0].pictures.itertuples()):
        truth, unknown = _indices(row.truth), len(classes)
        layers = []
        for run in shown:
            content = run.pictures["prediction"].iloc[i]
            prediction = _indices(content)
            seen |= set(np.unique(prediction).tolist())
            wrong = (prediction != truth) & (truth != unknown)
            layers.append(
                Layer(
                    *(_key(run), f"{spoken(run.cell.method)}, seed {run.cell.seed}", _uri(content, "png")),
                    *(
                        _uri(_errors(wrong), "png"),
                        _score(run.pictures["right"].iloc[i]),
                    ),
                )
            )
        seen |= set(np.unique(truth).tolist())
        height, width = truth.shape
        picture = GalleryPicture(
            str(row.image_id), width, height, _uri(row.image, "jpeg"), _uri(row.truth, "png"), "", layers
        )
        pictures.append(_described(picture, truth, classes))
    left_out = [run.cell.gallery.as_posix() for run in all_runs if run not in room]
    return Gallery(heading, list(by_method.items()), pictures, _legend(classes, seen), left_out)


def _legend(classes: Sequence[ClassInfo], seen: set[int]) -> list[tuple[str, str]]:
    return [(entry.name, f"rgb({' '.join(map(str, entry.color))})") for i, entry in enumerate(classes) if i in seen]


def _score(right: float) -> str:
    """`right`: share of correct pixels, NaN without ground truth."""
    return "no ground truth" if math.isnan(right) else f"{100 * right:.0f} % correct"


def _key(run: Run) -> str:
    return f"{run.cell.method}-{run.cell.seed}"


def _described(picture: GalleryPicture, truth: np.ndarray, classes: Sequence[ClassInfo]) -> GalleryPicture:
    """Describe the picture by the three largest classes of its ground truth."""
    counts = np.bincount(truth.ravel(), minlength=len(classes) + 1)[: len(classes)]
    largest = [int(i) for i in np.argsort(-counts, kind="stable")[:3] if counts[i]]
    words = ", ".join(f"{classes[i].name} {tables.percent(counts[i] / truth.size)} %" for i in largest)
    return replace(picture, content=words or "unknown")


def _indices(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture)


def _errors(wrong: np.ndarray) -> bytes:
    """1-bit PNG: wrong pixels in one colour, the others transparent."""
    picture = Image.fromarray(wrong.astype(np.uint8))
    picture.putpalette([0, 0, 0, *WRONG])
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", transparency=0, optimize=True)
    return buffer.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
