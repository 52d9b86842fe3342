"""Train one cell from files to files; shared by the warm-up and train stages."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from dualteacher import __version__
from dualteacher.core.labels import IGNORE
from dualteacher.data import partition
from dualteacher.data.loader import Augmented, RareStream, Stream
from dualteacher.data.pack import Pack
from dualteacher.machine import precision
from dualteacher.machine.device import peak_memory
from dualteacher.machine.distributed import World
from dualteacher.methods.base import Clock, Method
from dualteacher.models import saved
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Batch, Length, Settings
from dualteacher.system import files, paths, sealed
from dualteacher.system.console import logger
from dualteacher.system.errors import Interrupted, UserError
from dualteacher.training import committee, history, loop, watch
from dualteacher.training.checkpoint import Store, mark_of
from dualteacher.training.job import steps_per_epoch, total_steps
from dualteacher.workflow.contracts import BY_STAGE

Table = Callable[[loop.Progress], pd.DataFrame]


@dataclass(frozen=True)
class Data:
    """A cell's images: both packs, and the training pack's indices by role."""

    train: Pack
    val: Pack
    labelled: list[int]
    held_out: list[int]  # labelled, but used only to select the best epoch
    unlabelled: list[int]
    files: tuple[Path, ...]

    def steps_per_epoch(self, length: Length, batch: Batch) -> int:
        """Optimiser steps in an epoch of the warm-up or of training."""
        return steps_per_epoch(length, batch, len(self.labelled), len(self.unlabelled))

    def pixels_by_image(self) -> np.ndarray:
        """Pixel counts (labelled images, classes) int64. Reads every labelled mask."""
        masks = [self.train.mask(index) for index in self.labelled]
        counts = [np.bincount(mask.ravel(), minlength=IGNORE + 1) for mask in masks if mask is not None]
        return np.stack(counts)[:, : self.train.num_classes]

    def class_pixels(self) -> list[int]:
        """Labelled training pixels per class."""
        return [int(count) for count in self.pixels_by_image().sum(0)]

    def labelled_stream(self, seed: int, temperature: float | None) -> Stream:
        """Shuffled passes over the labelled images, or rare-class sampling at this temperature."""
        indices = np.array(self.labelled)
        if temperature is None:
            return Stream("labelled", indices, seed)
        return RareStream("labelled", indices, seed, self.pixels_by_image(), temperature)


def open_data(cell: paths.Cell) -> Data:
    """Open the packs and the partition. UserError if they do not match."""
    dataset = paths.Dataset(cell.dataset)
    table = paths.Partition(cell.dataset, cell.partition, cell.seed).table
    train, val = Pack(dataset.train), Pack(dataset.val)
    labelled, held_out, unlabelled = ([train.index(name) for name in names] for names in partition.read(table))
    if not labelled:
        raise UserError(f"{table}: no labelled image; give partition.{cell.partition} a larger fraction or count")
    without = [train.ids[i] for i in labelled + held_out if not train.has_mask(i)]
    if without:
        raise UserError(f"{table}: {without[0]} is labelled but {dataset.train} has no mask for it")
    return Data(train, val, labelled, held_out, unlabelled, (dataset.train, dataset.val, table))


def train_cell(
    cell: paths.Cell, settings: Settings, data: Data, student: Segmenter, method: Method, device: torch.device,
    world: World, *, length: Length, inputs: Sequence[Path],
    observe: Callable[[Clock, bool], dict[str, Any]], average: Segmenter | None = None,
    tables: Mapping[Path, Table] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Train a cell and write its weights, history, cost and alarms. Does nothing if this exact run has finished.

    average: scored in the student's place; see Job. tables: further outputs, built at the end of the run.
    """
    _check(cell, settings, data, method, world)
    watch.check_installed(settings.runtime.loggers)
    per_epoch = data.steps_per_epoch(length, settings.batch)
    steps = total_steps(length, per_epoch)
    stage = "warmup" if cell.method == "warmup" else "train"
    runtime = settings.runtime.model_copy(update={"precision": precision.chosen(device, settings.runtime.precision)})
    settings = settings.model_copy(update={"runtime": runtime})  # the mark includes the precision in use
    parameters = used_parameters(settings, stage, cell)
    mark = mark_of(parameters, [*data.files, *inputs], stage, method)
    run_name = "-".join(cell.folder.parts[2:])
    store = Store(run_name, mark, runtime.checkpoint_minutes, runtime.checkpoint_steps, world)
    outputs = (cell.student, cell.history, cell.cost, cell.alarms, *tables)
    if store.finished(outputs):
        logger.info("%s: up to date, made by this exact run; remove it to train again", cell.student)
        return
    side = settings.batch.crop
    pad = (student.mean.flatten().cpu().numpy() * 255).round().astype(np.uint8)
    job = loop.Job(
        name=f"{stage} {cell.dataset}-{cell.partition}-{cell.method}-{cell.seed}",
        settings=settings,
        student=student,
        method=method,
        dataset=Augmented(data.train, settings.augment, side, pad, cell.seed),
        labelled=data.labelled_stream(cell.seed, settings.sampling.rare_classes),
        unlabelled=Stream("unlabelled", np.array(data.unlabelled), cell.seed) if method.uses_unlabelled else None,
        steps=steps,
        steps_per_epoch=per_epoch,
        learning_rate=length.learning_rate,
        seed=cell.seed,
        device=device,
        store=store,
        world=world,
        observe=observe,
        average=average,
        config=parameters,
    )
    logger.info(
        "%s: %d labelled and %d unlabelled images, %d steps (%d per epoch), on %s in %s",
        job.name, len(data.labelled), len(data.unlabelled), steps, per_epoch, device, runtime.precision,
    )  # fmt: skip
    progress = run_within_memory(job)
    if world.is_rank_zero:
        for path, table in tables.items():
            sealed.write_table(path, pa.Table.from_pandas(table(progress), preserve_index=False))
        write(cell, job, progress, data, parameters)
        committee.keep(cell, method)
        store.finish(outputs)


def _check(cell: paths.Cell, settings: Settings, data: Data, method: Method, world: World) -> None:
    """UserError if the partition has no unlabelled images for the method, or the batch cannot be split."""
    if method.uses_unlabelled and not data.unlabelled:
        raise UserError(
            f"{cell.method} needs unlabelled images and partition.{cell.partition} leaves none;"
            " lower its fraction or count"
        )
    batch, passes = settings.batch, settings.batch.accumulate * world.size
    if batch.groups % passes:
        raise UserError(
            f"batch.groups = {batch.groups} cannot be split over {world.size} processes with {batch.accumulate}"
            f" passes each; make it a multiple of {passes}"
        )


def run_within_memory(job: loop.Job) -> loop.Progress:
    """Run the loop. UserError with the setting to lower if memory runs out or a loader process is killed."""
    try:
        return loop.run(job)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):  # torch's batch normalisation
            raise
        batch = job.settings.batch
        raise UserError(
            f"batch.labelled = {batch.labelled}, batch.unlabelled = {batch.unlabelled}, batch.accumulate ="
            f" {batch.accumulate} and batch.crop = {batch.crop} leave batch normalisation one value per channel, and it"
            " needs two; raise the batch or the crop, or lower batch.accumulate"
        ) from error
    except (MemoryError, RuntimeError) as error:  # torch's own OutOfMemoryError is a RuntimeError
        text = str(error)
        if "DataLoader worker" in text and "signal: Terminated" in text:  # a scheduler ends all processes of a job
            raise Interrupted(f"{job.name}; the same command resumes from the last checkpoint") from error
        if "DataLoader worker" in text:
            raise UserError(
                "a loader process was killed, often for lack of memory; run the same command to resume from the last"
                f" checkpoint, with runtime.workers below {job.settings.runtime.workers} to save memory"
            ) from error
        if not isinstance(error, MemoryError) and "memory" not in text.lower():
            raise
        batch = job.settings.batch
        raise UserError(
            f"out of memory on {job.device} (peak {peak_memory(job.device) / 2**30:.1f} GiB) with {batch.labelled} +"
            f" {batch.unlabelled} crops of {batch.crop}² pixels per step in {batch.accumulate} passes and"
            f" {job.student.num_classes} classes; raise batch.groups and batch.accumulate (same images, smaller"
            f" passes), or lower batch.crop or the batch: {text.splitlines()[0] if text else 'MemoryError'}"
        ) from error


def used_parameters(settings: Settings, stage: str, cell: paths.Cell) -> dict[str, Any]:
    """The settings that a stage's result depends on (see workflow/contracts.py), and the cell itself."""
    everything = settings.model_dump(mode="json")
    used = {name: everything[name] for name in BY_STAGE[stage].sections}
    used["method"] = everything["methods"].get(cell.method)
    if stage == "train":
        used["evaluate"] = {"weights": everything["evaluate"]["weights"]}
    used["runtime"] = {"precision": everything["runtime"]["precision"]}
    return used | {"cell": [cell.dataset, cell.partition, cell.method, cell.seed]}


def params_fingerprint(parameters: dict[str, Any]) -> str:
    """sha256 of the parameters, hex; identifies them in tables and weights."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()


def selected(progress: loop.Progress) -> dict[str, Any]:
    """Which epoch the final weights are from: the last, or the best on the held-out labelled images."""
    best = progress.best
    if best is not None:
        return {"by": "held_out", "epoch": best["epoch"], "step": best["step"], "miou": best["score"]}
    return {"by": "last", "epoch": progress.history[-1]["epoch"] if progress.history else None, "step": progress.step}


def scores(progress: loop.Progress) -> dict[str, Any] | None:
    """Validation scores of the final weights during training (one scale, no flip); None if not measured."""
    epoch = selected(progress)["epoch"]
    row = next((row for row in progress.history if row["epoch"] == epoch), {})
    found = {name: row.get(name, math.nan) for name in ("val_miou", "val_pixel_accuracy")}
    return None if any(math.isnan(value) for value in found.values()) else found


def write(cell: paths.Cell, job: loop.Job, progress: loop.Progress, data: Data, parameters: dict[str, Any]) -> None:
    """Write history, cost, alarms and the weights with their description. Weights last: they mark completion."""
    sealed.write_table(cell.history, pa.Table.from_pandas(history.table(progress.history), preserve_index=False))
    student_images, teacher_images = job.method.images_seen()
    images = (student_images + teacher_images) * progress.step
    cost = {
        "seconds": round(progress.seconds, 3),
        "steps": progress.step,
        "images_per_second": round(images / progress.seconds, 3) if progress.seconds else None,
        "peak_memory_bytes": peak_memory(job.device),
        "student_images": student_images * progress.step,
        "teacher_images": teacher_images * progress.step,
        "parameters": sum(
            p.numel() for p in {p for one in (job.student, *job.method.partners) for p in one.parameters()}
        ),
        "device": torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else job.device.type,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
    sealed.write_json(cell.cost, cost)
    sealed.write_json(cell.alarms, {"alarms": [dataclasses.asdict(alarm) for alarm in loop.raised(job, progress)]})
    description = {
        "program": f"dualteacher {__version__}",
        "cell": {
            "dataset": cell.dataset,
            "partition": cell.partition,
            "method": cell.method,
            "seed": cell.seed,
        },
        "crop": job.settings.batch.crop,
        "inference": job.settings.inference.model_dump(mode="json"),
        "labelled": len(data.labelled),
        "held_out": len(data.held_out),
        "unlabelled": len(data.unlabelled) if job.method.uses_unlabelled else 0,
        "images_sha256": {"train": data.train.content_hash, "val": data.val.content_hash},
        "train_sha256": files.sha256(data.files[0]),
        "partition_sha256": files.sha256(data.files[2]),
        "params_fingerprint": params_fingerprint(parameters),
        "parameters": parameters,
        "steps": progress.step,
        "selected": selected(progress),
        "scores": scores(progress),
    }
    saved.save(cell.student, job.student, description)
