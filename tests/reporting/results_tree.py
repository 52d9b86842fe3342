"""A made-up results tree in the formats of the train, evaluate and partition stages."""

from __future__ import annotations

import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from dualteacher import settings
from dualteacher.data import class_table
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.pack import PackWriter, Sample
from dualteacher.evaluation import gallery
from dualteacher.system import paths
from dualteacher.training import history
from dualteacher.workflow import presets

CLASSES = [
    ClassInfo("water", (52, 101, 164)),
    ClassInfo("tropical forest", (0, 96, 48)),
    ClassInfo("savanna", (196, 170, 60)),
    ClassInfo("desert", (232, 206, 160)),
    ClassInfo("ice", (235, 245, 255)),
]
LIFT = {"supervised": 0.0, "mean_teacher": -0.008, "dual_teacher": 0.021}
IMAGES = 3
PRESETS = Path(__file__).parents[2] / "presets"


def parameters(**grid: list[Any]) -> dict[str, Any]:
    """The default parameters with another grid."""
    raw = presets.load("bluemarble", PRESETS)
    raw["grid"] |= {"dataset": ["bluemarble"], "partition": ["eighth"], "method": list(LIFT), "seed": [0, 1]} | grid
    return raw


def make_tree(root: Path, raw: dict[str, Any]) -> settings.Settings:
    """Write params.yaml and every input of the report under `root`; the caller changes into it."""
    (root / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")
    loaded = settings.parse(raw)
    grid = loaded.grid
    for dataset in grid.dataset:
        _json(root / paths.Dataset(dataset).classes, class_table.as_json(CLASSES))
        (root / paths.Dataset(dataset).val).write_bytes(_validation_images())
        for part in grid.partitions:
            for seed in grid.seed:
                labelled = {"eighth": 96 + 2 * seed, "quarter": 190, "full": 772}[part]
                provenance = paths.Partition(dataset, part, seed).provenance
                _json(root / provenance, _provenance(dataset, part, seed, labelled))
                for method in grid.methods_on(part):
                    cell = paths.Cell(dataset, part, method, seed)
                    _cell(root, cell, labelled)
                    _account(root, cell, loaded)
    return loaded


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _provenance(dataset: str, part: str, seed: int, labelled: int) -> dict[str, Any]:
    return {
        **{"kind": "generated", "dataset": dataset, "partition": part, "seed": seed, "unit": "block"},
        **{"fraction": 0.125, "labelled": labelled, "unlabelled": 772 - labelled, "held_out": 0},
        **{"list_sha256": f"{seed + 1}a" * 32, "pack_sha256": "c0" * 32},
        **{"classes_missing": [4] if seed else [], "labelled_pixels": [1000, 0, 0, 0, 0]},
    }


def _cell(root: Path, cell: paths.Cell, labelled: int) -> None:
    random = np.random.default_rng([cell.seed, len(cell.method), labelled])
    miou = 0.339 + LIFT[cell.method] + 0.012 * cell.seed + random.normal(0, 0.004) + (0.07 if labelled > 150 else 0)
    taught = cell.method != "supervised"
    rows = _history(random, cell.method, miou)
    folder = root / cell.folder
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / "history.parquet", index=False)
    _json(
        folder / "metrics.json",
        {
            **{"dataset": cell.dataset, "partition": cell.partition, "method": cell.method, "seed": cell.seed},
            **{"miou": miou, "pixel_accuracy": miou + 0.27, "mean_accuracy": miou + 0.11, "last_epoch": len(rows)},
            **{"best_miou": miou + 0.006, "best_epoch": 9, "images": 254, "params_fingerprint": "f"},
            **{"selected": "last", "selected_epoch": len(rows)},
            **{"partition_sha256": f"{labelled}-{cell.seed}", "weights_sha256": "w"},
        },
    )
    _json(
        folder / "cost.json",
        {
            **{"seconds": 61.5 + 80 * taught, "steps": 150, "images_per_second": 18.9, "peak_memory_bytes": 7.4e8},
            **{"student_images": 1200 + 2400 * taught, "teacher_images": 1200 * taught, "parameters": 3_412_000},
            **{"device": "cpu", "threads": 1},
        },
    )
    _scores(random, miou, folder)
    _insight(random, miou, folder)
    for name, content in _gallery(cell.method).items():
        (folder / name).write_bytes(content)


def _account(root: Path, cell: paths.Cell, loaded: settings.Settings) -> None:
    """What the run says of itself: its parameters and its log."""
    everything = loaded.model_dump(mode="json")
    names = (cell.dataset, cell.partition, cell.method, cell.seed)
    used = {"train": everything["train"], "method": everything["methods"][cell.method], "cell": list(names)}
    path = root / cell.metrics
    _json(path, json.loads(path.read_text()) | {"parameters": used, "weights_sha256": "c4" * 32})
    log = root / paths.log("train", *names)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(f"12:00:{i:02} train {'-'.join(map(str, names))}: step {i}/40 <b>\n" for i in range(1, 41)))


def _history(random: np.random.Generator, method: str, miou: float) -> pd.DataFrame:
    epochs = 13
    epoch = np.arange(1, epochs + 1)
    table = pd.DataFrame({"epoch": epoch, "step": 12 * epoch, "learning_rate": 2e-4 * (1 - epoch / (epochs + 1))})
    table["loss"] = table["loss_supervised"] = 0.9 * np.exp(-epoch / 6) + 0.3 + random.normal(0, 0.02, epochs)
    table["mix"] = None
    table[[name for name in history.NAMES if name not in table]] = np.nan
    checked = (epoch % 3 == 0) | (epoch == epochs)
    table["val_miou"] = np.where(checked, miou - 0.05 * np.exp(-epoch / 5), np.nan)
    table["val_pixel_accuracy"] = table["val_miou"] + 0.27
    if method == "supervised":
        return table
    table["loss_mix"] = 0.5 * np.exp(-epoch / 9)
    table["loss_consistency"] = 0.4 * np.exp(-epoch / 7)
    table["loss"] += table["loss_mix"] + 0.2 * table["loss_consistency"]
    table["kept"] = 0.3 + 0.3 * (1 - np.exp(-epoch / 5))
    table["probe_coverage"] = np.where(checked, table["kept"] + 0.02, np.nan)
    table["probe_accuracy"] = np.where(checked, 0.93 - 0.004 * epoch, np.nan)
    table["probe_accuracy_all"] = np.where(checked, 0.71 + 0.002 * epoch, np.nan)
    two = method == "dual_teacher"
    table["teacher"] = epoch % 2 if two else 0
    table["mix"] = np.where(epoch % 2 == 0, "cutmix", "classmix")
    decay = np.exp(-epoch / 12)
    table["distance_active"] = 0.02 * decay + random.normal(0, 3e-4, epochs)
    table["disagreement_active"] = 0.08 * decay
    if two:
        table["distance_waiting"] = 0.05 * decay
        table["disagreement_waiting"] = 0.13 * decay
    return table


def _scores(random: np.random.Generator, miou: float, folder: Path) -> None:
    """The last class never occurs: its IoU is unknown, not 0."""
    count = len(CLASSES)
    counts = np.zeros((count, count), dtype=np.int64)
    for target in range(count - 1):
        pixels = int(1e6 / (target + 1))
        shares = random.dirichlet(np.ones(count)) * 0.4
        shares[target] += 0.6
        counts[target] = pixels * shares
    target, prediction = (grid.ravel() for grid in np.indices(counts.shape))
    pd.DataFrame({"target": target, "prediction": prediction, "pixels": counts.ravel()}).to_parquet(
        folder / "confusion.parquet", index=False
    )
    iou = np.clip(miou + np.linspace(0.35, -0.3, count) + random.normal(0, 0.01, count), 0, 1)
    iou[-1] = np.nan
    pd.DataFrame(
        {
            **{"class_index": range(count), "class_name": [entry.name for entry in CLASSES]},
            **{"iou": iou, "accuracy": iou + 0.05},
            **{"target_pixels": counts.sum(1), "predicted_pixels": counts.sum(0)},
        }
    ).to_parquet(folder / "per_class.parquet", index=False)


def _insight(random: np.random.Generator, miou: float, folder: Path) -> None:
    """Scores of single images, calibration, snapshots of the first, no alarms."""
    scores = np.clip(miou + np.array([0.1, -0.2, 0.05]) + random.normal(0, 0.01, IMAGES), 0, 1)
    ids = [f"tile {i}" for i in range(IMAGES)]
    table = pd.DataFrame({"image_id": ids, "miou": scores, "pixel_accuracy": scores})
    table.to_parquet(folder / "per_image.parquet", index=False)
    low = np.arange(20) / 20
    pixels = np.arange(20) * 100
    confidence, right = pixels * (low + 0.025), (pixels * np.clip(low - 0.05, 0, 1)).astype(int)
    bins = {"low": low, "high": low + 0.05, "pixels": pixels, "right": right, "confidence": confidence}
    pd.DataFrame(bins).to_parquet(folder / "calibration.parquet", index=False)
    shots = [(epoch, 12 * epoch, "tile 0", png(random.integers(0, 4, (48, 48), np.uint8))) for epoch in (3, 6, 13)]
    columns = ["epoch", "step", "image_id", "prediction"]
    pd.DataFrame(shots, columns=columns).to_parquet(folder / "snapshots.parquet", index=False)
    _json(folder / "alarms.json", {"alarms": []})


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@cache
def _validation_images() -> bytes:
    """A pack of the gallery's images."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "val.arrow"
        with PackWriter(path, "bluemarble", len(CLASSES)) as writer:
            for i, row in enumerate(_rows(np.random.default_rng(3), 0.0)):
                writer.add(Sample(f"tile {i}", png(row.image), png(row.truth), *row.truth.shape))
        return path.read_bytes()


@cache
def _gallery(method: str) -> dict[str, bytes]:
    """The files of a gallery for each method, made once; all methods see the same images."""
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows(np.random.default_rng(3), 0.1 * len(method) - 1)
        gallery.render(rows, CLASSES, Path(folder) / "gallery.png")
        gallery.save([f"tile {i}" for i in range(len(rows))], rows, CLASSES, Path(folder) / "gallery.parquet")
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _rows(random: np.random.Generator, shift: float) -> list[gallery.Row]:
    """Smooth fields cut into classes, a border of unknown truth, and a prediction that is off here and there."""
    rows = []
    for _ in range(IMAGES):
        y, x = np.mgrid[0:48, 0:48] / 48
        a, b, c = random.uniform(1, 5, 3)
        surface = np.sin(a * x + b * y) + np.cos(c * x - a * y)
        truth = np.digitize(surface, [-0.8, 0.1, 0.9]).astype(np.uint8)
        prediction = np.digitize(surface + 0.25 * np.sin(9 * x + shift), [-0.8, 0.1, 0.9]).astype(np.uint8)
        image = np.array([entry.color for entry in CLASSES])[truth] * 0.6 + random.uniform(0, 60, (48, 48, 1))
        truth[:3] = 255
        rows.append(gallery.Row(image.astype(np.uint8), truth, prediction))
    return rows
