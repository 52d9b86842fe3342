"""Inference, evaluation, report and machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dualteacher.settings.base import AtLeastOne, Count, Name, NotNegative, Positive, Section


class Inference(Section):
    """How images are predicted, for validation and evaluation."""

    mode: Literal["whole", "slide"]  # the whole image at once, or a sliding window
    batch: AtLeastOne  # images of equal size to predict together
    resize: Annotated[list[AtLeastOne], Field(min_length=2, max_length=2)] | None  # [long, short]; null: unchanged
    multiple: AtLeastOne  # round both sides to a multiple of this
    window: AtLeastOne  # slide: side of the window, pixels
    stride: AtLeastOne  # slide: step between windows, pixels


class Evaluate(Section):
    """Final evaluation."""

    scales: Annotated[list[Positive], Field(min_length=1)]  # average predictions at these scales
    flip: bool  # also average with the mirrored image
    weights: Literal["student", "average"]  # the student's, or their moving average over training
    gallery: AtLeastOne  # number of images in the gallery


class Report(Section):
    """The report."""

    title: str  # title of the page
    baseline: Name  # method that the others are compared with


class Runtime(Section):
    """The machine. Only `precision` affects results, so only it is tracked."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]  # auto: a GPU if available
    precision: Literal["auto", "float32", "bfloat16"]  # of the networks' passes; auto: bfloat16 on GPUs that support it
    graphs: bool  # on a GPU: run steps as CUDA graphs
    threads: AtLeastOne  # CPU threads per process
    workers: Count  # data-loading processes per process
    cells_per_gpu: AtLeastOne  # jobs that may share a GPU; more than 1 for small networks
    processes: AtLeastOne  # processes per warm-up, training or evaluation job, each on its own GPU
    checkpoint_minutes: NotNegative  # minutes between checkpoints; 0: after every step
    checkpoint_steps: AtLeastOne | None  # also save a checkpoint every this many steps; null: no

    @model_validator(mode="after")
    def _one_device_each(self) -> Runtime:
        if self.processes > 1 and (self.device == "mps" or ":" in self.device):
            raise ValueError(f"processes ({self.processes}) > 1 needs device auto, cuda or cpu, not {self.device}")
        return self
