"""From weights to the report: inference, evaluation, its words, the machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dualteacher.settings.base import AtLeastOne, Count, Name, NotNegative, Positive, Section


class Inference(Section):
    """How a whole image is predicted, in validation and evaluation alike."""

    mode: Literal["whole", "slide"]  # the whole image at once, or windows that slide over it
    batch: AtLeastOne  # images of one size predicted together
    resize: Annotated[list[AtLeastOne], Field(min_length=2, max_length=2)] | None  # [long, short]; null: as is
    multiple: AtLeastOne  # both sides are rounded to a multiple of this
    window: AtLeastOne  # slide: side of the window, pixels
    stride: AtLeastOne  # slide: step between windows, pixels


class Evaluate(Section):
    """The final evaluation."""

    scales: Annotated[list[Positive], Field(min_length=1)]  # predictions at these scales are averaged
    flip: bool  # and those of the mirrored image
    weights: Literal["student", "average"]  # the student's after the last step, or their moving average in training
    gallery: AtLeastOne  # images in the gallery


class Report(Section):
    """The report's words."""

    title: str  # of the page
    baseline: Name  # the method the others are compared with


class Runtime(Section):
    """The machine. precision changes the numbers and is tracked; the rest is not."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]  # auto takes a GPU if there is one
    precision: Literal["auto", "float32", "bfloat16"]  # of the networks' passes; auto: bfloat16 on GPUs that have it
    threads: AtLeastOne  # CPU threads a job
    workers: Count  # loader processes a job
    cells_per_gpu: AtLeastOne  # jobs that share a GPU: more than 1 for small networks
    processes: AtLeastOne  # of a warm-up, training or evaluation, each on a GPU of its own
    checkpoint_minutes: NotNegative  # 0: after every step
    checkpoint_steps: AtLeastOne | None  # in addition, every so many steps

    @model_validator(mode="after")
    def _one_device_each(self) -> Runtime:
        if self.processes > 1 and (self.device == "mps" or ":" in self.device):
            raise ValueError(f"processes ({self.processes}) need device auto, cuda or cpu, not {self.device}")
        return self
