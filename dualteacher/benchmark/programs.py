"""The benchmarked programs: our training step, the plain step, and the network passes alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dualteacher import methods
from dualteacher.benchmark import plain
from dualteacher.benchmark.cases import Case
from dualteacher.benchmark.plain_network import PlainNetwork
from dualteacher.core import seeds
from dualteacher.data.loader import StepBatch, finish
from dualteacher.machine.distributed import World
from dualteacher.machine.precision import autocast
from dualteacher.methods.base import Clock, Method
from dualteacher.models import segmenter
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Settings
from dualteacher.training import cuda_graphs, loop
from dualteacher.training.optimizer import make_optimizer

Program = Callable[[int], Any]  # called with the number of the step


def clock(step: int) -> Clock:
    """Alternate teacher and mix at every step. Always an epoch's second step, since in the first EMA is a copy."""
    return Clock(4 * step + 1, 4)


def networks(case: Case, device: torch.device) -> tuple[Settings, Segmenter, Method]:
    """An untrained student in train mode, and the method with its teachers; identical at every call."""
    settings = case.settings()
    student = segmenter.build(settings.model, case.classes, None, drop_path=settings.model.drop_path, seed=0)
    student.to(device).train()
    return settings, student, methods.build("dual_teacher", settings, student)


def loaded(case: Case, device: torch.device) -> StepBatch:
    """A batch as the loader hands it over: in pinned memory for a GPU."""
    batch = case.batch()
    return StepBatch(*(part.pin_memory() for part in batch)) if device.type == "cuda" else batch


class Ours:
    """(a) The training loop's step."""

    def __init__(self, case: Case, device: torch.device) -> None:
        settings, student, method = networks(case, device)
        self.batch = loaded(case, device)
        self.networks = [student]
        self.optimizer = make_optimizer(self.networks, settings.optimizer, settings.train.learning_rate)
        unused: Any = None  # needed by a run but not by a step
        self.job = loop.Job(
            name="benchmark", settings=settings, student=student, method=method, dataset=unused, labelled=unused,
            unlabelled=unused, steps=0, steps_per_epoch=4, learning_rate=settings.train.learning_rate, seed=0,
            device=device, store=unused, world=World(), observe=unused,
        )  # fmt: skip

    def __call__(self, step: int) -> dict[str, Tensor]:
        return loop.step(self.job, self.networks, self.optimizer, self.batch, clock(step))


class Plain:
    """(b) The plain step on the textbook network; with `same_network`, (b′) on our network."""

    def __init__(self, case: Case, device: torch.device, same_network: bool = False) -> None:
        settings, segmenter, self.method = networks(case, device)
        self.device, self.batch, self.precision = device, loaded(case, device), settings.runtime.precision
        network = segmenter if same_network else PlainNetwork(segmenter)
        trained = network if isinstance(network, Segmenter) else network.copied
        optimizer = make_optimizer([trained], settings.optimizer, settings.train.learning_rate)
        self.training = plain.Training(network, optimizer, self.method.options, settings.mixing)

    def __call__(self, step: int) -> dict[str, Tensor]:
        now = clock(step)
        torch.manual_seed(seeds.derive(0, "dropout", now.step, 0))  # as the training loop does
        draws = self.method.draw(now, self.batch, 0, self.device).views[0]
        with autocast(self.device, self.precision):
            return self.training.step(self.batch.to(self.device), draws, now.epoch, now.step_in_epoch)


class Bare:
    """(c) Teacher forward, student forward and backward on the same numbers of images: the lower bound.

    No views, upsampling, losses or optimiser; the gradient of the logits is a constant. On a GPU as one CUDA graph, so
    that the host does not slow it.
    """

    def __init__(self, case: Case, device: torch.device) -> None:
        settings, self.student, method = networks(case, device)
        self.device, self.precision = device, settings.runtime.precision
        self.teacher = method.teachers[0]
        images = finish(case.batch().to(device))
        self.unlabelled = images.unlabelled
        self.images = torch.cat([images.labelled, images.unlabelled, images.unlabelled])
        with torch.no_grad(), autocast(device, self.precision):
            logits = self.student(self.images)
        self.slope = torch.full_like(logits, 1 / logits.numel())
        self.run: Callable[[], Any] = self.passes
        if device.type == "cuda":
            for _ in range(cuda_graphs.EAGER):
                self.passes()
            _, self.run = cuda_graphs.recorder()(self.passes)

    def __call__(self, step: int) -> None:
        self.student.zero_grad(set_to_none=self.device.type != "cuda")
        self.run()

    def passes(self) -> dict[str, Tensor]:
        """Adds to the student's gradients."""
        with autocast(self.device, self.precision):
            with torch.no_grad():
                self.teacher(self.unlabelled)
            logits = self.student(self.images)
        logits.backward(self.slope)
        return {}
