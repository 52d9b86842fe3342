"""The training loop, the same for warm-up and every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dualteacher import console, schedule, seeds
from dualteacher.console import logger
from dualteacher.data import loader
from dualteacher.data.loader import Augmented, Stream
from dualteacher.errors import UserError
from dualteacher.methods.base import Clock, Method
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Optimizer, Settings
from dualteacher.training.checkpoint import Store
from dualteacher.training.device import peak_memory

Row = dict[str, Any]
LOSSES = ("loss", "loss_supervised", "loss_mix", "loss_consistency", "kept")


@dataclass
class Job:
    """Everything a run needs; `observe` judges the student at an epoch's end and returns history columns."""

    name: str
    settings: Settings
    student: Segmenter
    method: Method
    dataset: Augmented
    labelled: Stream
    unlabelled: Stream | None
    steps: int
    learning_rate: float
    seed: int
    device: torch.device
    store: Store
    observe: Callable[[Clock, bool], Row]

    @property
    def steps_per_epoch(self) -> int:
        """One pass over the labelled images; at least one step."""
        return steps_per_epoch(len(self.labelled.indices), self.settings.batch.labelled)


def steps_per_epoch(labelled: int, batch: int) -> int:
    """Full batches in a pass over `labelled` images; the rest comes first in the next pass."""
    return max(1, labelled // batch)


@dataclass
class Progress:
    """What a run has done so far; with the networks and the optimiser it is the whole checkpoint."""

    step: int = 0
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)  # of the running epoch, on the device
    counted: int = 0


def run(job: Job) -> Progress:
    """Train to the end, from the newest checkpoint if there is one; the student is trained in place."""
    settings, student, method = job.settings, job.student, job.method
    optimizer = make_optimizer([student, *method.partners], settings.optimizer, job.learning_rate)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    progress = resume(job, optimizer)
    began = time.monotonic() - progress.seconds
    if settings.runtime.compile:
        student.compile()
    autocast = torch.autocast(job.device.type, dtype=torch.bfloat16, enabled=settings.runtime.precision == "bfloat16")
    student.train()

    for batch in feed(job, progress.step):
        clock = Clock(progress.step, *divmod(progress.step, job.steps_per_epoch))

        # --- schedule and seeds: functions of the step alone
        factor = rate_factor(settings.optimizer, clock.step, job.steps)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        torch.manual_seed(seeds.derive(job.seed, "dropout", clock.step))

        # --- losses
        draws = method.draw(clock, batch, job.seed, job.device)
        images = loader.finish(batch.to(job.device))
        with autocast:
            losses = method.loss(student, images, draws, clock)

        # --- backward, optimiser, teachers
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        optimizer.step()
        method.after_step(student, clock)

        # --- bookkeeping; sums stay on the device, so nothing waits for it until the epoch ends
        for name, value in losses.parts.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value
        progress.counted += 1
        progress.step += 1
        if job.device.type == "cpu" or clock.step % 50 == 0:
            stop_if_bad(progress, clock)
        last = progress.step == job.steps
        if last or progress.step % job.steps_per_epoch == 0:
            stop_if_bad(progress, clock)
            finish_epoch(job, progress, clock, job.learning_rate * factor, last)
        progress.seconds = time.monotonic() - began
        if job.store.due() and not last:
            job.store.save(progress.step, checkpoint(job, optimizer, progress))
    student.eval()
    return progress


def feed(job: Job, first: int) -> Iterator[loader.Batch]:
    """Batches from step `first` on, with progress shown."""
    batch = job.settings.batch
    streams = [(job.labelled, batch.labelled)]
    if job.unlabelled is not None:
        streams.append((job.unlabelled, batch.unlabelled))
    pin = job.device.type == "cuda"
    workers = job.settings.runtime.workers
    source = loader.batches(job.dataset, streams, first, job.steps, workers=workers, pin=pin)
    yield from console.progress(source, job.name, total=job.steps - first, unit="step")


def make_optimizer(networks: Sequence[Segmenter], optimizer: Optimizer, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW or SGD over the networks' parameter groups, one fused kernel a group."""
    rates = (learning_rate, optimizer.head_multiplier, optimizer.weight_decay)
    groups = [group for network in networks for group in network.parameter_groups(*rates)]
    if optimizer.name == "adamw":
        betas = (optimizer.betas[0], optimizer.betas[1])
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    return torch.optim.SGD(groups, lr=learning_rate, momentum=optimizer.momentum, fused=True)


def rate_factor(optimizer: Optimizer, step: int, steps: int) -> float:
    """Factor of every group's learning rate at `step`."""
    horizon = optimizer.horizon or steps
    return schedule.poly_warmup(step, 1.0, optimizer.ramp_steps, optimizer.ramp_ratio, horizon, optimizer.power)


def stop_if_bad(progress: Progress, clock: Clock) -> None:
    """End the run, with the losses' parts, as soon as a sum is not a number."""
    if not math.isfinite(float(progress.sums["loss"])):
        parts = ", ".join(f"{name} {float(value):.4g}" for name, value in progress.sums.items())
        raise UserError(
            f"the loss is not a number at step {clock.step} (epoch {clock.epoch}; sums so far: {parts});"
            " lower train.learning_rate or use runtime.precision: float32; the last checkpoint is kept"
        )


def finish_epoch(job: Job, progress: Progress, clock: Clock, rate: float, last: bool) -> None:
    """Turn the sums into a history row, judge the student where it is due, and say so in a line."""
    means = {name: float(value) / progress.counted for name, value in progress.sums.items()}
    progress.sums, progress.counted = {}, 0
    row: Row = {"epoch": clock.epoch, "step": progress.step, "learning_rate": rate}
    row |= {name: means.get(name, math.nan) for name in LOSSES}
    row |= {"mix": job.method.mix(clock), "teacher": job.method.active(clock)}
    job.student.eval()
    row |= job.observe(clock, last)
    job.student.train()
    progress.history.append(row)
    shown = {"loss": row["loss"], "val mIoU": row["val_miou"], "kept": row["kept"]}
    words = ", ".join(f"{name} {value:.4f}" for name, value in shown.items() if not math.isnan(value))
    memory = peak_memory(job.device) / 2**20
    logger.info(
        "%s: epoch %d, step %d/%d, %s, lr %.3g, %.0f MB", job.name, clock.epoch, progress.step, job.steps,
        words, rate, memory,
    )  # fmt: skip


def checkpoint(job: Job, optimizer: torch.optim.Optimizer, progress: Progress) -> dict[str, Any]:
    """All that changes during a run."""
    return {
        "step": progress.step,
        "seconds": progress.seconds,
        "history": progress.history,
        "sums": progress.sums,
        "counted": progress.counted,
        "student": job.student.state_dict(),
        "others": [network.state_dict() for network in others(job.method)],
        "optimizer": optimizer.state_dict(),
    }


def others(method: Method) -> list[Segmenter]:
    """The networks beside the student."""
    return [*method.teachers, *method.partners]


def resume(job: Job, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore networks and optimiser from the newest checkpoint; a fresh Progress without one."""
    state = job.store.load(job.device)
    if state is None:
        return Progress()
    job.student.load_state_dict(state["student"])
    for network, saved in zip(others(job.method), state["others"], strict=True):
        network.load_state_dict(saved)
    optimizer.load_state_dict(state["optimizer"])
    logger.info("%s: going on from step %d of %d", job.name, state["step"], job.steps)
    return Progress(state["step"], state["seconds"], state["history"], state["sums"], state["counted"])
