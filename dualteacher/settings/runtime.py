"""The machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dualteacher.settings.base import AtLeastOne, Count, NotNegative, Section


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
    loggers: list[Literal["tensorboard", "wandb", "mlflow", "dvclive"]]  # see docs/loggers.md

    @model_validator(mode="after")
    def _one_device_each(self) -> Runtime:
        if self.processes > 1 and (self.device == "mps" or ":" in self.device):
            raise ValueError(f"processes ({self.processes}) > 1 needs device auto, cuda or cpu, not {self.device}")
        return self
