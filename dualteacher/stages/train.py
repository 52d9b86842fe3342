"""Train one run with its method, starting from the warm-up."""

from __future__ import annotations

import pandas as pd

from dualteacher import methods
from dualteacher.machine import distributed, sync_norm
from dualteacher.machine.device import setup
from dualteacher.methods.base import Clock
from dualteacher.methods.teaching import make_teacher
from dualteacher.models import saved
from dualteacher.settings import Settings
from dualteacher.system import paths
from dualteacher.system.errors import UserError
from dualteacher.training import calibration, snapshots
from dualteacher.training.diagnostics import blank, judge_teachers, probe_images, selector, validator
from dualteacher.training.history import Row
from dualteacher.training.loop import Progress
from dualteacher.training.run import open_data, train_cell


def run(settings: Settings, dataset: str, partition: str, method: str, seed: int) -> None:
    """Train the student with `method`; validate every `train.validate_every` epochs and at the end."""
    cell = paths.Cell(dataset, partition, method, seed)
    world, device = distributed.start(setup(settings.runtime))
    start = cell.warmup.student
    data = open_data(cell)
    student, _ = saved.load(start, drop_path=settings.model.drop_path)
    student.to(device)
    if settings.model.sync_norm:
        sync_norm.synchronise_norms(student)
    chosen = methods.build(method, settings, student, data.class_pixels)
    if settings.evaluate.weights == "teachers" and not chosen.teachers:  # a method outside the grid
        raise UserError(f"evaluate.weights = 'teachers', but {method} has no teachers; use average")
    average = None if settings.evaluate.weights == "student" else make_teacher(student, "running")
    scored = student if average is None else average
    validate = validator(scored, data.val, settings, device, world)
    select = selector(scored, data.train, data.held_out, settings, device, world)
    record = snapshots.recorder(scored, data.val, settings.inference, device)
    probe = probe_images(data.train, data.unlabelled, settings.train.probe_images, seed)

    def observe(clock: Clock, last: bool) -> Row:
        row, due = blank(), last or (clock.epoch + 1) % settings.train.validate_every == 0
        if due:
            row |= validate() | select() | record()
        return row | judge_teachers(student, chosen, clock, data.train, probe if due else [], settings, device)

    def calibrate(progress: Progress) -> pd.DataFrame:
        """Calibration of the last pseudo-labels trained on or, without any, of the student's own predictions."""
        clock = Clock(max(progress.step - 1, 0), data.steps_per_epoch(settings.train, settings.batch))
        labeller = chosen.labeller(student, clock) or student
        return calibration.measure(labeller, data.train, probe, settings.inference, device)

    def pictures(progress: Progress) -> pd.DataFrame:
        return snapshots.table(progress.history, [data.val.ids[i] for i in snapshots.snapshot_images(data.val)])

    train_cell(
        cell, settings, data, student, chosen, device, world,
        length=settings.train, inputs=[start], average=average, observe=observe,
        tables={cell.calibration: calibrate, cell.snapshots: pictures},
    )  # fmt: skip
    distributed.stop()
