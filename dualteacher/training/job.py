"""What a run is made of, and its state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dualteacher.data.loader import Augmented, Stream
from dualteacher.machine.distributed import World
from dualteacher.methods.base import Clock, Method
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Batch, Length, Settings, Train
from dualteacher.training.checkpoint import Store
from dualteacher.training.history import Row

if TYPE_CHECKING:
    from dualteacher.training.cuda_graphs import Passes


@dataclass
class Job:
    """Everything a run needs. observe(clock, last): evaluates at an epoch's end and returns history columns."""

    name: str
    settings: Settings
    student: Segmenter
    method: Method
    dataset: Augmented
    labelled: Stream
    unlabelled: Stream | None
    steps: int
    steps_per_epoch: int
    learning_rate: float
    seed: int
    device: torch.device
    store: Store
    world: World
    observe: Callable[[Clock, bool], Row]
    average: Segmenter | None = None  # scored in the student's place: its EMA or the teachers' mean (evaluate.weights)
    config: dict[str, Any] = field(default_factory=dict)  # the settings that the result depends on, for the loggers
    passes: Passes | None = None  # forward and backward of a shard; None: as CUDA graphs where they can be

    @property
    def scored(self) -> Segmenter:
        """The network that is evaluated and saved."""
        return self.student if self.average is None else self.average


def steps_per_epoch(length: Length, batch: Batch, labelled: int, unlabelled: int) -> int:
    """Full batches in a pass over the images of `train.epochs_of`, or the labelled ones if none are unlabelled.

    At least one. The remainder starts the next pass. A warm-up's epochs pass over the labelled images.
    """
    if isinstance(length, Train) and length.epochs_of == "unlabelled" and unlabelled:
        return max(1, unlabelled // batch.unlabelled)
    return max(1, labelled // batch.labelled)


def total_steps(length: Length, per_epoch: int) -> int:
    """Optimiser steps of a training phase."""
    return length.steps if length.steps is not None else (length.epochs or 0) * per_epoch


@dataclass
class Progress:
    """The state of a run besides its networks and optimiser."""

    step: int = 0
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)  # of the running epoch's loss terms, on the device
    counted: int = 0  # steps in `sums`
    best: dict[str, Any] | None = None  # score, epoch, step, weights of the best epoch on the held-out images

    def means(self) -> dict[str, float]:
        """Mean loss terms of the running epoch so far. Waits for the device."""
        return {name: float(value) / self.counted for name, value in self.sums.items()}
