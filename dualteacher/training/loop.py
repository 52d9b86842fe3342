"""The training loop, shared by the warm-up and all methods."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor

from dualteacher.core import ema, seeds
from dualteacher.data import loader
from dualteacher.data.loader import Take
from dualteacher.machine import distributed, interrupt
from dualteacher.machine.precision import autocast
from dualteacher.methods.base import Clock, Shard
from dualteacher.models.segmenter import Segmenter
from dualteacher.system.console import logger
from dualteacher.system.errors import Interrupted, UserError
from dualteacher.training import alarms, cuda_graphs, history
from dualteacher.training.cuda_graphs import Parts
from dualteacher.training.feed import feed
from dualteacher.training.history import Row
from dualteacher.training.job import Job as Job
from dualteacher.training.job import Progress as Progress
from dualteacher.training.optimizer import make_optimizer, rate_factor
from dualteacher.training.waiting import Watchdog
from dualteacher.training.watch import Loggers, Watch

AVERAGE_DECAY = 0.99  # per step, after the ramp
CHECKED = 50  # steps between checks for NaN on a GPU, each of which waits for the device
ADVICE = (
    "lower train.learning_rate, use runtime.precision: float32, or set optimizer.bad_batch: skip; the last good"
    " checkpoint is kept"
)


def run(job: Job) -> Progress:
    """Train the student in place to the end, resuming from the newest checkpoint if there is one.

    With held-out labelled images, the student ends with the weights of the epoch that scored best on them. On SIGTERM
    or SIGINT, saves a checkpoint and raises Interrupted.
    """
    networks = [job.student, *job.method.partners]
    optimizer = make_optimizer(networks, job.settings.optimizer, job.learning_rate)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    progress = resume(job, optimizer)
    began = time.monotonic() - progress.seconds
    job.student.train()

    images = sum(job.method.images_seen())
    pack = job.dataset.pack
    loggers = Loggers(job.settings.runtime.loggers, job.config, pack.dataset, pack.num_classes)
    watch = Watch(job.name, progress.step, job.steps, images, job.device, loggers)
    watch.warned = raised(job, progress)  # logged before the interruption
    workers = job.settings.runtime.workers
    batches = feed(job.dataset, takes(job), progress.step, job.steps, workers, job.device)
    with (
        interrupt.listening() as request, Watchdog(request, job.name), saving(job, optimizer, progress),
        closing(watch.over(batches)) as watched,
    ):  # fmt: skip
        for batch in request.over(watched, job.world):
            clock = Clock(progress.step, job.steps_per_epoch)
            factor = rate_factor(job.settings.optimizer, clock.step, job.steps)
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * factor

            parts = step(job, networks, optimizer, batch, clock)

            # the sums stay on the device, so the host does not wait
            for name, value in parts.items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            progress.counted += 1
            progress.step += 1
            last = progress.step == job.steps
            if last or progress.step % job.steps_per_epoch == 0:
                finish_epoch(job, progress, clock, job.learning_rate * factor, last)
                watch.epoch(progress.history[-1])
                watch.warn(raised(job, progress))
            watch.step(progress.step, progress.means, job.learning_rate * factor)
            progress.seconds = time.monotonic() - began
            asked = request.made(job.world, progress.step, job.device)
            if (asked or job.store.due(progress.step)) and not last:
                save(job, optimizer, progress)
            if asked and not last:
                distributed.stop()  # waits for rank 0 to save: the launcher kills all ranks once one has left
                raise stopped(job, progress)
    check_weights(job, progress.step)
    load_final_weights(job, progress)
    return progress


def load_final_weights(job: Job, progress: Progress) -> None:
    """Give the student the weights to save: those of its average, or of the best epoch."""
    if job.average is not None:
        job.student.load_trained_state(job.average.trained_state())
    if progress.best is not None:
        job.student.load_trained_state(progress.best["weights"])
        logger.info("%s: keeping epoch %d, the best on the held-out images", job.name, progress.best["epoch"])
    job.student.eval()


def stopped(job: Job, progress: Progress) -> Interrupted:
    return Interrupted(f"{job.name} at step {progress.step} of {job.steps}; the same command resumes from there")


@contextmanager
def saving(job: Job, optimizer: torch.optim.Optimizer, progress: Progress) -> Iterator[None]:
    """Save and raise Interrupted if a stop was requested while waiting for a batch, which may never come.

    Other ranks may wait in an all-reduce for this one, so it does not wait for them: the launcher ends them.
    """
    try:
        yield
    except interrupt.StopWaiting:
        save(job, optimizer, progress)
        raise stopped(job, progress) from None


def raised(job: Job, progress: Progress) -> list[alarms.Alarm]:
    """Alarms of the run so far."""
    threshold = job.method.threshold
    thresholded = threshold is not None and threshold > 1 / job.student.num_classes
    probed = job.settings.train.probe_images > 0
    return alarms.check(progress.history, alarms.Context(job.steps, thresholded, probed))


def step(
    job: Job, networks: Sequence[Segmenter], optimizer: torch.optim.Optimizer, batch: loader.StepBatch, clock: Clock
) -> dict[str, Tensor]:
    """One optimiser step on this process's share of the batch. Returns the loss terms, on the device."""
    settings, method, world = job.settings, job.method, job.world
    accumulate = settings.batch.accumulate
    parts: dict[str, Tensor] = {}
    if job.passes is None:
        job.passes = cuda_graphs.choose(job, forward_and_backward)
    optimizer.zero_grad(set_to_none=job.passes is forward_and_backward)  # a graph writes where its gradients were
    for number, part in enumerate(batch.shards(accumulate)):
        place = world.rank * accumulate + number  # index of this shard over all processes
        shard = Shard(place * len(part.unlabelled), settings.batch.groups // (accumulate * world.size))
        torch.manual_seed(seeds.derive(job.seed, "dropout", clock.step, place))

        draws = method.draw(clock, part, job.seed, job.device, shard)
        for name, value in job.passes(job, part.to(job.device), draws, clock, shard).items():
            parts[name] = parts.get(name, 0.0) + value / accumulate

    # --- optimiser, teachers
    distributed.average_gradients(networks, world)
    distributed.average(parts.values(), world)
    if is_finite(job, networks, parts, clock):
        optimizer.step()
        distributed.average_buffers(networks, world)
        method.after_step(job.student, clock)
        if job.average is not None:
            update_average(job, job.average, clock)
        if method.balance is not None:
            distributed.average([method.balance.pending], world)
            method.balance.step()
    elif method.balance is not None:
        method.balance.pending.zero_()
    return parts


def update_average(job: Job, average: Segmenter, clock: Clock) -> None:
    """Let the scored average follow, as `evaluate.weights` says."""
    if job.settings.evaluate.weights == "teachers":
        for number, teacher in enumerate(job.method.teachers):  # running mean
            ema.update(average, teacher, number / (number + 1))
    else:
        ema.update(average, job.student, ema.decay(clock.step, AVERAGE_DECAY))


def forward_and_backward(job: Job, batch: loader.StepBatch, draws: Any, clock: Clock, shard: Shard) -> Parts:
    """Add a shard's share to the gradients. Returns its loss terms. Nothing here waits for the device."""
    images = loader.finish(batch)
    with autocast(job.device, job.settings.runtime.precision):
        losses = job.method.loss(job.student, images, draws, clock, shard)
    (losses.total / job.settings.batch.accumulate).backward()
    return losses.parts


def is_finite(job: Job, networks: Sequence[Segmenter], parts: dict[str, Tensor], clock: Clock) -> bool:
    """Whether loss and gradients are finite. If not, UserError, or False with optimizer.bad_batch: skip.

    On a GPU only every CHECKED steps, unless `checked_every_step`.
    """
    if clock.step % CHECKED and not checked_every_step(job):
        return True
    gradients = [p.grad for network in networks for p in network.parameters() if p.grad is not None]
    total = torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).sum() + parts["loss"]
    fine = bool(torch.isfinite(total))
    parts["skipped"] = torch.zeros_like(parts["loss"])
    if fine:
        return True
    shown = ", ".join(f"{name} {float(value):.4g}" for name, value in parts.items() if name.startswith("loss"))
    ids = ", ".join(job.dataset.pack.ids[item.index] for take in takes(job) for item in take.items(clock.step))
    text = f"step {clock.step}: the loss or a gradient is NaN or infinite ({shown}); images: {ids}"
    if job.settings.optimizer.bad_batch != "skip":
        raise UserError(f"{text}; {ADVICE}")
    logger.warning("%s; batch skipped", text)
    for name in parts:  # keep NaN out of the epoch's means
        parts[name] = torch.zeros_like(parts[name])
    parts["skipped"] += 1
    return False


def checked_every_step(job: Job) -> bool:
    return job.device.type == "cpu" or job.settings.optimizer.bad_batch == "skip"


def check_weights(job: Job, step: int) -> None:
    """UserError if a trained weight is NaN or infinite and the check of every step has not ruled that out."""
    if checked_every_step(job):
        return
    weights = [p.data for network in (job.student, *job.method.partners) for p in network.parameters()]
    if not torch.isfinite(torch.stack(torch._foreach_norm(weights)).sum()):
        raise UserError(f"step {step}: a weight is NaN or infinite; {ADVICE}")


def takes(job: Job) -> list[Take]:
    """What a step takes from each stream, and which part of that this process loads."""
    batch, world = job.settings.batch, job.world
    wanted = [(job.labelled, batch.labelled, "batch.labelled")]
    if job.unlabelled is not None:
        wanted.append((job.unlabelled, batch.unlabelled, "batch.unlabelled"))
    return [Take(stream, size, world.share(size, name)) for stream, size, name in wanted]


def finish_epoch(job: Job, progress: Progress, clock: Clock, rate: float, last: bool) -> None:
    """Turn the sums into a history row, evaluate where due, and remember the best epoch."""
    means = progress.means()
    counted, progress.sums, progress.counted = progress.counted, {}, 0
    row: Row = {"epoch": clock.epoch, "step": progress.step, "learning_rate": rate}
    row |= {name: means.get(name, math.nan) for name in history.names("losses")}
    row["skipped"] = round(means.get("skipped", 0.0) * counted)
    row |= {"mix": job.method.mix(clock), "teacher": job.method.active(clock)}
    job.student.eval()
    with autocast(job.device, job.settings.runtime.precision):  # as the evaluate stage does
        row |= job.observe(clock, last)
    job.student.train()
    progress.history.append(row)
    held_out = row.get("held_out_miou", math.nan)
    if held_out > (progress.best["score"] if progress.best else -math.inf):  # False for NaN
        weights = {key: value.to("cpu", copy=True) for key, value in job.scored.trained_state().items()}
        progress.best = {"score": held_out, "epoch": clock.epoch, "step": progress.step, "weights": weights}


def save(job: Job, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Save a checkpoint; UserError instead if a weight is not finite."""
    check_weights(job, progress.step)
    job.store.save(progress.step, checkpoint(job, optimizer, progress))


def checkpoint(job: Job, optimizer: torch.optim.Optimizer, progress: Progress) -> dict[str, Any]:
    """Everything that changes during a run."""
    return {
        "step": progress.step,
        "seconds": progress.seconds,
        "history": progress.history,
        "sums": progress.sums,
        "counted": progress.counted,
        "best": progress.best,
        "student": job.student.trained_state(),
        "others": [network.trained_state() for network in others(job)],
        "balance": job.method.balance.state_dict() if job.method.balance is not None else None,
        "optimizer": optimizer.state_dict(),
    }


def others(job: Job) -> list[Segmenter]:
    """All networks besides the student."""
    average = [] if job.average is None else [job.average]
    return [*job.method.teachers, *job.method.partners, *average]


def resume(job: Job, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore networks and optimiser from the newest checkpoint. Returns a fresh Progress without one."""
    state = job.store.load(job.device)
    if state is None:
        return Progress()
    job.student.load_trained_state(state["student"])
    for network, saved in zip(others(job), state["others"], strict=True):
        network.load_trained_state(saved)
    if job.method.balance is not None:
        job.method.balance.load_state_dict(state["balance"])
    optimizer.load_state_dict(state["optimizer"])
    logger.info("%s: resuming from step %d of %d", job.name, state["step"], job.steps)
    kept = (state[name] for name in ("step", "seconds", "history", "sums", "counted", "best"))
    return Progress(*kept)
