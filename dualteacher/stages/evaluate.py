"""Evaluate a run's student on the validation images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from dualteacher.data import class_table
from dualteacher.data.channels import shown
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.pack import Pack
from dualteacher.evaluation import card, gallery
from dualteacher.evaluation.scoring import PerImage, score
from dualteacher.inference.predictor import Predictor, to_tensor
from dualteacher.machine import distributed
from dualteacher.machine.device import setup
from dualteacher.machine.precision import autocast
from dualteacher.models import named, saved
from dualteacher.settings import Settings
from dualteacher.system import files, paths, sealed
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError


def run(settings: Settings, dataset: str, partition: str, method: str, seed: int) -> None:
    """Write metrics.json, its tables, the gallery, the model card and the weights' class table.

    Scores the saved weights: those of the last epoch or, with `held_out`, of the best epoch on the held-out images.
    """
    cell = paths.Cell(dataset, partition, method, seed)
    world, device = distributed.start(setup(settings.runtime))
    model, description = saved.load(cell.student)
    val = Pack(paths.Dataset(dataset).val)
    classes = class_table.read(dataset)
    if not model.num_classes == val.num_classes == len(classes) or not saved.knows(description, "val", val):
        val.check()  # damage is another matter
        raise UserError(f"{cell.student}: its classes or images differ from those of {val.path}; train it again")
    description["classes"] = class_table.as_json(classes)
    model.to(device)
    predictor = Predictor(model, settings.inference, settings.evaluate.scales, settings.evaluate.flip)
    with autocast(device, settings.runtime.precision):
        images = PerImage(len(val), val.num_classes, device)
        matrix = score(predictor, val, device, settings.inference.batch, world, world.is_rank_zero, per_image=images)
        if world.is_rank_zero:
            draw_gallery(cell, predictor, val, classes, device, settings.evaluate.gallery)
    distributed.stop()
    if not world.is_rank_zero:
        return
    scores = matrix.scores()
    write_images(cell, val, images.scores())
    per_class = write_tables(cell, classes, matrix.counts, scores)
    with_mask = sum(val.has_mask(i) for i in range(len(val)))
    metrics = {
        "dataset": dataset, "partition": partition, "method": method, "seed": seed,
        "miou": scores["miou"], "pixel_accuracy": scores["pixel_accuracy"],
        "mean_accuracy": scores["mean_accuracy"],
        **validation_record(read_history(cell)),
        **selection(description),
        "images": with_mask,
        "partition_sha256": files.sha256(paths.Partition(dataset, partition, seed).table),
        "weights_sha256": files.sha256(cell.student),
        "train_sha256": description["train_sha256"],
        "params_fingerprint": description["params_fingerprint"],
        "parameters": description["parameters"],
    }  # fmt: skip
    sealed.write_json(cell.metrics, metrics)
    named.write(cell.student, metrics["weights_sha256"], description["classes"])
    text = card.render(cell.student, model, description, metrics, per_class, settings.evaluate)
    files.write_text(cell.model_card, text)
    logger.info("%s: mIoU %.4f, pixel accuracy %.4f", cell.student, scores["miou"], scores["pixel_accuracy"])


def read_history(cell: paths.Cell) -> pd.DataFrame:
    """A run's training history, one row per epoch; UserError if the file is missing or damaged."""
    try:
        return sealed.read_table(cell.history).to_pandas()
    except FileNotFoundError:
        raise UserError(f"{cell.history}: no such file; run the train stage") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"{cell.history}: {error}; delete it and run the train stage again") from None


def validation_record(history: pd.DataFrame) -> dict[str, Any]:
    """last_epoch, and best_miou and best_epoch of the validations during training (None without validation)."""
    judged = history.dropna(subset="val_miou")
    best = judged.loc[judged["val_miou"].idxmax()] if len(judged) else None
    return {
        "last_epoch": int(history["epoch"].iloc[-1]) if len(history) else None,
        "best_miou": float(best["val_miou"]) if best is not None else None,
        "best_epoch": int(best["epoch"]) if best is not None else None,
    }


def selection(description: Mapping[str, Any]) -> dict[str, Any]:
    """Which epoch's weights were scored: the last, or the one chosen on held-out labelled images."""
    chosen = description.get("selected") or {"by": "last", "epoch": None}  # missing in older files
    return {"selected": chosen["by"], "selected_epoch": chosen["epoch"]}


def write_images(cell: paths.Cell, val: Pack, scores: np.ndarray) -> None:
    """Write per_image.parquet: image_id, miou, pixel_accuracy of every image with labelled pixels."""
    table = pd.DataFrame({"image_id": val.ids, "miou": scores[:, 0], "pixel_accuracy": scores[:, 1]}).dropna()
    sealed.write_table(cell.per_image, pa.Table.from_pandas(table, preserve_index=False))


def write_tables(
    cell: paths.Cell, classes: list[ClassInfo], counts: np.ndarray, scores: dict[str, Any]
) -> pd.DataFrame:
    """Write per_class.parquet and confusion.parquet; return the former."""
    names = [info.name for info in classes]
    per_class = pd.DataFrame(
        {
            "class_index": np.arange(len(names)),
            "class_name": names,
            "iou": scores["class_iou"],
            "accuracy": scores["class_accuracy"],
            "target_pixels": counts.sum(1),
            "predicted_pixels": counts.sum(0),
        }
    )
    target, prediction = np.indices(counts.shape)
    confusion = pd.DataFrame({"target": target.ravel(), "prediction": prediction.ravel(), "pixels": counts.ravel()})
    for path, table in ((cell.per_class, per_class), (cell.confusion, confusion)):
        sealed.write_table(path, pa.Table.from_pandas(table, preserve_index=False))
    return per_class


def draw_gallery(
    cell: paths.Cell, predictor: Predictor, val: Pack, classes: list[ClassInfo], device: torch.device, count: int
) -> None:
    """Draw images at equal intervals in the validation set, so that none are hand-picked."""
    with_mask = [i for i in range(len(val)) if val.has_mask(i)]
    step = max(1, math.ceil(len(with_mask) / count))
    chosen = with_mask[::step][:count]
    rows = []
    for i in chosen:
        image, truth = val.image(i), val.mask(i)
        assert truth is not None
        prediction = predictor(to_tensor([image], device))[0].cpu().numpy().astype(np.uint8)
        rows.append((shown(image), truth, prediction))
    gallery.render(rows, classes, cell.gallery)
    gallery.save([val.ids[i] for i in chosen], rows, classes, cell.pictures)
