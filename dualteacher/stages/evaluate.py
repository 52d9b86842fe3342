"""Evaluation: a cell's student on the validation images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import torch

from dualteacher import distributed, files, paths
from dualteacher.console import logger
from dualteacher.data.pack import ClassInfo, Pack
from dualteacher.errors import UserError
from dualteacher.evaluation import gallery, model_card
from dualteacher.evaluation.inference import Predictor, to_tensor
from dualteacher.evaluation.scoring import score
from dualteacher.models import saved
from dualteacher.settings import Settings
from dualteacher.training.device import setup


def run(settings: Settings, dataset: str, partition: str, method: str, seed: int) -> None:
    """Write metrics.json, its tables, gallery.png and model_card.md; the last epoch counts."""
    where = paths.Cell(dataset, partition, method, seed)
    world, device = distributed.start(setup(settings.runtime))
    model, description = saved.load(where.student)
    val = Pack(paths.Dataset(dataset).val)
    known = [entry["name"] for entry in description["classes"]]
    if known != [info.name for info in val.classes]:
        raise UserError(f"{where.student}: trained on other classes than {val.path} has; train it again")
    model.to(device)
    predictor = Predictor(model, settings.inference, settings.evaluate.scales, settings.evaluate.flip)
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.runtime.precision == "bfloat16")
    with autocast:
        matrix = score(predictor, val, device, settings.inference.batch, world, show=world.leads)
        if world.leads:
            draw_gallery(where, predictor, val, device, settings.evaluate.gallery)
    distributed.stop()
    if not world.leads:
        return
    scores = matrix.scores()
    per_class = write_tables(where, val.classes, matrix.counts, scores)
    with_mask = sum(val.has_mask(i) for i in range(len(val)))
    metrics = {
        "dataset": dataset, "partition": partition, "method": method, "seed": seed,
        "miou": scores["miou"], "pixel_accuracy": scores["pixel_accuracy"],
        "mean_accuracy": scores["mean_accuracy"],
        **validation_record(pd.read_parquet(where.history)),
        "images": with_mask,
        "partition_sha256": files.sha256(paths.Split(dataset, partition, seed).table),
        "weights_sha256": files.sha256(where.student),
        "params_fingerprint": description["params_fingerprint"],
    }  # fmt: skip
    files.write_json(where.metrics, metrics)
    card = model_card.render(where.student, model, description, metrics, per_class, settings.evaluate)
    files.write_text(where.model_card, card)
    logger.info("%s: mIoU %.4f, pixel accuracy %.4f", where.student, scores["miou"], scores["pixel_accuracy"])


def validation_record(history: pd.DataFrame) -> dict[str, Any]:
    """last_epoch, and the best validation during training with its epoch (null without validation)."""
    judged = history.dropna(subset="val_miou")
    best = judged.loc[judged["val_miou"].idxmax()] if len(judged) else None
    return {
        "last_epoch": int(history["epoch"].iloc[-1]) if len(history) else None,
        "best_miou": float(best["val_miou"]) if best is not None else None,
        "best_epoch": int(best["epoch"]) if best is not None else None,
    }


def write_tables(
    where: paths.Cell, classes: list[ClassInfo], counts: np.ndarray, scores: dict[str, Any]
) -> pd.DataFrame:
    """per_class.parquet, which is returned, and confusion.parquet."""
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
    for path, table in ((where.per_class, per_class), (where.confusion, confusion)):
        with files.atomic(path) as temporary:
            table.to_parquet(temporary, index=False)
    return per_class


def draw_gallery(where: paths.Cell, predictor: Predictor, val: Pack, device: torch.device, count: int) -> None:
    """Images spread evenly over the validation set, so that nobody chose them."""
    with_mask = [i for i in range(len(val)) if val.has_mask(i)]
    step = max(1, math.ceil(len(with_mask) / count))
    rows = []
    for i in with_mask[::step][:count]:
        image, truth = val.image(i), val.mask(i)
        assert truth is not None
        prediction = predictor(to_tensor([image], device))[0].cpu().numpy().astype(np.uint8)
        rows.append((image, truth, prediction))
    gallery.render(rows, val.classes, where.gallery)
