"""Warm-up: train the student on labelled images only; all methods of a partition and seed start from it."""

from __future__ import annotations

from dualteacher.machine import distributed, sync_norm
from dualteacher.machine.device import setup
from dualteacher.methods.base import Clock
from dualteacher.methods.supervised import Supervised
from dualteacher.models import segmenter, tensors
from dualteacher.settings import Settings
from dualteacher.system import paths
from dualteacher.system.console import logger
from dualteacher.training.diagnostics import blank, validator
from dualteacher.training.history import Row
from dualteacher.training.run import open_data, train_cell


def run(settings: Settings, dataset: str, partition: str, seed: int) -> None:
    """Train from the pretrained backbone; validate once, at the end. `warmup.steps: 0` saves the untrained student."""
    cell = paths.Cell(dataset, partition, "warmup", seed)
    world, device = distributed.start(setup(settings.runtime))
    start = paths.backbone_weights(settings.model.backbone)
    data = open_data(cell)
    student = segmenter.build(
        settings.model, data.val.num_classes, start,
        drop_path=settings.model.drop_path, seed=seed, channels=data.train.channels,
    ).to(device)  # fmt: skip
    if world.is_rank_zero:
        logger.info("backbone %s: %s", settings.model.backbone, tensors.origin_in_words(student.pretrained))
    if settings.model.sync_norm:
        sync_norm.synchronise_norms(student)
    method = Supervised(None, settings, student, data.class_pixels)
    validate = validator(student, data.val, settings, device, world)

    def observe(clock: Clock, last: bool) -> Row:
        return blank() | (validate() if last else {})

    train_cell(
        cell, settings, data, student, method, device, world,
        length=settings.warmup, inputs=[start], observe=observe,
    )  # fmt: skip
    distributed.stop()
