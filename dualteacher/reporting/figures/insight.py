"""Figures: reliability diagrams, gains by class, hardest images, predictions over epochs."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from dualteacher.data.class_table import ClassInfo
from dualteacher.data.formats.images import thin
from dualteacher.data.pack import Pack
from dualteacher.reporting import insight
from dualteacher.reporting.figures.classes import Runs
from dualteacher.reporting.figures.drawing import INK, MUTED, Figure, Panel
from dualteacher.reporting.results import Results, Run, spoken
from dualteacher.reporting.tables import percent, points
from dualteacher.system import paths

CLASSES_SHOWN = 30
SHOWN = 6  # hardest images to show, and validations per strip
SIDE = 160  # maximum side of a picture, pixels
PAPER = np.array([1.0, 1.0, 1.0])


# ---------------------------------------------------------------- calibration


def calibration(name: str, runs: Runs, colors: dict[str, str]) -> Figure:
    """One reliability diagram per method, seeds pooled."""
    panels = []
    for method, of_method in runs.items():
        bins = insight.added(of_method)
        if bins["pixels"].sum():
            title = f"{spoken(method)}: ECE {percent(insight.error(bins))} %"
            text = f"{title}. Bars: accuracy by confidence; dots: share of all pixels"
            panels.append(Panel(title, partial(_reliability, bins, colors[method]), text, (2.6, 2.3)))
    return Figure(name, panels, columns=4, empty="no unlabelled image has a mask to check pseudo-labels against")


def _reliability(bins: pd.DataFrame, color: str, axes: Any) -> None:
    filled = bins[bins["pixels"] > 0]
    width = 100 * (bins["high"] - bins["low"]).iloc[0]
    at = 100 * (filled["low"] + filled["high"]) / 2
    axes.plot([0, 100], [0, 100], color=MUTED, lw=0.9, ls=(0, (3, 1.6)))
    axes.bar(at, 100 * filled["right"] / filled["pixels"], 0.86 * width, color=color, alpha=0.55)
    axes.plot(at, 100 * filled["pixels"] / filled["pixels"].sum(), "o", color=INK, markersize=2.5)
    axes.grid(axis="y")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_xlabel("confidence (%)")


# ---------------------------------------------------------------- classes


def class_gains(name: str, gains: pd.DataFrame, colors: dict[str, str]) -> Figure:
    """Each method's gain over the baseline by class; at most CLASSES_SHOWN, those with the largest changes."""
    panels = []
    for method, table in gains.groupby("method", sort=False):
        shown = table.dropna(subset="mean")
        if not len(shown):
            continue
        largest = shown["mean"].abs().sort_values(ascending=False, kind="stable").index[:CLASSES_SHOWN]
        shown = shown.loc[largest].sort_values("mean", ascending=False, kind="stable")
        title = f"{spoken(str(method))} (points)"
        text = f"{title}: IoU minus the baseline's by class, mean over seeds, with its interval if there is one"
        height = 0.6 + 0.2 * len(shown)
        panels.append(Panel(title, partial(_gains, shown, colors[str(method)]), text, (3.3, height)))
    return Figure(name, panels, empty="no method to compare with the baseline")


def _gains(table: pd.DataFrame, color: str, axes: Any) -> None:
    at = np.arange(len(table))
    axes.axvline(0, color=MUTED, lw=0.9)
    axes.barh(at, 100 * table["mean"], 0.6, color=color, alpha=0.85)
    known = table["low"].notna().to_numpy()
    axes.hlines(at[known], 100 * table["low"][known], 100 * table["high"][known], color=INK, lw=1, alpha=0.55)
    axes.set_yticks(at, table["class_name"])
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.locator_params(axis="x", nbins=5)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)


# ---------------------------------------------------------------- pictures


def hardest(name: str, table: pd.DataFrame, dataset: str, classes: Sequence[ClassInfo]) -> Figure:
    """The hardest validation images beside their ground truth, with mean and best mIoU."""
    panels = []
    for image_id, rows in table[table["rank"] <= SHOWN].groupby("image_id", sort=False):
        best = rows.loc[rows["miou"].idxmax()]
        line = f"mean {percent(rows['mean'].iloc[0])} %, best {spoken(best['method'])} {percent(best['miou'])} %"
        text = f"{image_id}: image and ground truth; mIoU {line}"
        draw = partial(_pair, dataset, str(image_id), tuple(classes), line)
        panels.append(Panel(str(image_id), draw, text, (3.3, 2.0)))
    return Figure(name, panels, empty="no validation image has a mask")


def _pair(dataset: str, image_id: str, classes: tuple[ClassInfo, ...], line: str, axes: Any) -> None:
    image, truth = _image_and_truth(dataset, image_id)
    _row(axes, [image, colored(truth, classes)])
    axes.set_xlabel(line, fontsize=8)


def snapshots(name: str, runs: Runs, dataset: str, classes: Sequence[ClassInfo]) -> Figure:
    """For each method: a fixed validation image, its ground truth, and the first seed's predictions over epochs."""
    panels = []
    for method, of_method in runs.items():
        table = of_method[0].snapshots
        if len(table):
            image_id = str(table["image_id"].iloc[0])
            shown = table[table["image_id"] == image_id]
            keep = np.unique(np.linspace(0, len(shown) - 1, min(SHOWN, len(shown))).round().astype(int))
            draw = partial(_strip, dataset, image_id, shown.iloc[keep], tuple(classes))
            text = f"{spoken(method)}: predictions for {image_id} after epochs {_epochs(shown.iloc[keep])}"
            panels.append(Panel(spoken(method), draw, text, (7.0, 1.25)))
    return Figure(name, panels, columns=1, empty="no run was validated during training")


def _epochs(shown: pd.DataFrame) -> str:
    return ", ".join(map(str, shown["epoch"]))


def _strip(dataset: str, image_id: str, shown: pd.DataFrame, classes: tuple[ClassInfo, ...], axes: Any) -> None:
    image, truth = _image_and_truth(dataset, image_id)
    maps = [np.asarray(Image.open(io.BytesIO(content))) for content in shown["prediction"]]
    cells = [image, colored(truth, classes), *(colored(one, classes) for one in maps)]
    centres = _row(axes, cells)
    axes.set_xticks(centres, ["image", "ground truth", *(f"epoch {epoch}" for epoch in shown["epoch"])], fontsize=8)


def _row(axes: Any, pictures: Sequence[np.ndarray]) -> list[float]:
    """Draw pictures side by side at the same size; return the x position of their centres."""
    height, width = pictures[0].shape[:2]
    gap = max(2, width // 24)
    left, centres = 0, []
    for picture in pictures:
        axes.imshow(picture, extent=(left, left + width, height, 0), interpolation="none")
        centres.append(left + width / 2)
        left += width + gap
    axes.set_xlim(0, left - gap)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    return centres


def colored(labels: np.ndarray, classes: Sequence[ClassInfo]) -> np.ndarray:
    """(h, w) class indices → (h, w, 4) uint8 in the classes' colours; other values are transparent."""
    palette = np.zeros((256, 4), np.uint8)
    palette[: len(classes), :3] = [info.color for info in classes]
    palette[: len(classes), 3] = 255
    return palette[labels]


def _image_and_truth(dataset: str, image_id: str) -> tuple[np.ndarray, np.ndarray]:
    """A validation image (h, w, 3) and its mask (h, w), subsampled to at most SIDE."""
    pack = _pack(str(paths.Dataset(dataset).val.absolute()))
    index = pack.index(image_id)
    image, truth = pack.picture(index), pack.mask(index)
    assert truth is not None  # only images with a mask are scored
    part = thin(truth.shape, SIDE)
    return image[part], truth[part]


@cache
def _pack(path: str) -> Pack:
    return Pack(Path(path))


# ---------------------------------------------------------------- words


def calibrated(method: str, runs: Sequence[Run]) -> str:
    """Describe how well a method's confidence is calibrated; "" without scored pixels."""
    bins = insight.added(runs)
    pixels = bins["pixels"].sum()
    if not pixels:
        return ""
    right, confidence = (bins[name].sum() / pixels for name in ("right", "confidence"))
    lean = "over" if confidence > right else "under"
    return (
        f"{spoken(method)}: mean confidence {percent(confidence)} %, accuracy {percent(right)} %"
        f" ({lean}confident by {points(abs(confidence - right)).lstrip('+')} points);"
        f" expected calibration error {percent(insight.error(bins))} %."
    )


def makers(results: Results, dataset: str, partition: str, colors: dict[str, str]) -> dict[str, Callable[[], Figure]]:
    """How to make this module's figures for one dataset and partition, by name."""
    runs, classes, stem = results.by_method(dataset, partition), results.classes[dataset], f"{dataset}-{partition}"

    def gains(name: str) -> Figure:
        return class_gains(name, insight.class_gains(results, dataset, partition), colors)

    def hard(name: str) -> Figure:
        return hardest(name, insight.hardest(results, dataset, partition), dataset, classes)

    made: dict[str, Callable[[str], Figure]] = {
        "calibration": lambda name: calibration(name, runs, colors),
        "class_gains": gains,
        "hardest": hard,
        "snapshots": lambda name: snapshots(name, runs, dataset, classes),
    }
    return {f"{stem}-{kind}": partial(make, f"{stem}-{kind}") for kind, make in made.items()}
