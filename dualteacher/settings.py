"""params.yaml as typed, validated settings.

There are no defaults: what is not written in params.yaml does not exist, so the file (and with it
Snakemake's and DVC's record of a run) is the whole truth. Every mistake becomes one line that names the
key, the value and what is allowed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dualteacher.errors import UserError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", description="lower-case letters, digits and _")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A mapping of params.yaml: no unknown keys, no silent conversions, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Grid(Section):
    """Which cells are run: the product of the four lists."""

    dataset: list[Name] = Field(min_length=1)
    partition: list[Name] = Field(min_length=1)
    method: list[Name] = Field(min_length=1)
    seed: list[Count] = Field(min_length=1)

    @model_validator(mode="after")
    def _no_repeats(self) -> Grid:
        for key in ("dataset", "partition", "method", "seed"):
            values = getattr(self, key)
            if len(set(values)) != len(values):
                raise ValueError(f"grid.{key} lists a value twice: {values}")
        return self


class BlueMarble(Section):
    """NASA Blue Marble tiles with Köppen–Geiger classes, cut on the user's machine."""

    source: Literal["bluemarble"]
    tile: Annotated[int, Field(ge=16, le=512, multiple_of=8)]  # side of a tile, pixels (15 a degree)
    block: Annotated[int, Field(ge=16)]  # side of the square that goes to one split as a whole, pixels
    minimum_land: Share
    north: Annotated[float, Field(ge=-90, le=90)]  # degrees
    south: Annotated[float, Field(ge=-90, le=90)]
    validation: Annotated[float, Field(gt=0.0, lt=1.0)]  # share of the blocks
    limit: AtLeastOne | None  # at most this many tiles a split, for quick tries; null: all

    @model_validator(mode="after")
    def _geometry(self) -> BlueMarble:
        if self.block % self.tile:
            raise ValueError(f"block ({self.block}) must be a multiple of tile ({self.tile})")
        if self.north <= self.south:
            raise ValueError(f"north ({self.north}) must lie above south ({self.south})")
        return self


class Partition(Section):
    """Which training images keep their masks: a share of them or a number."""

    fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None
    count: AtLeastOne | None

    @model_validator(mode="after")
    def _one_of(self) -> Partition:
        if (self.fraction is None) == (self.count is None):
            raise ValueError("give exactly one of fraction and count, and null for the other")
        return self


class Model(Section):
    """The network; see models/segmenter.py."""

    architecture: Literal["segformer", "deeplabv3plus"]
    backbone: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")]
    weights: Annotated[str, Field(min_length=1)]  # wheel, timm, none, or a file's path
    head_width: AtLeastOne
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)]  # the student's; teachers run at full depth


class Batch(Section):
    """Images a step."""

    labelled: AtLeastOne
    unlabelled: AtLeastOne
    crop: Annotated[int, Field(ge=8)]  # side of the square crop, pixels


class Augment(Section):
    """The weak augmentation of every training image."""

    resize: Annotated[list[AtLeastOne], Field(min_length=2, max_length=2)] | None  # [long, short]; null: as is
    scale: Annotated[list[Positive], Field(min_length=2, max_length=2)]  # random factor, from … to
    class_share: Annotated[float, Field(gt=0.0, le=1.0)]  # redraw a crop one class fills beyond this share
    flip: Share
    photometric: bool

    @model_validator(mode="after")
    def _order(self) -> Augment:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"augment.scale runs from small to large, not {self.scale}")
        if self.resize and self.resize[0] < self.resize[1]:
            raise ValueError(f"augment.resize is [long, short], not {self.resize}")
        return self


class Jitter(Section):
    """Colour jitter; a factor is drawn from 1 ± the given range (hue: ± the range, in turns)."""

    probability: Share
    brightness: Share
    contrast: Share
    saturation: Share
    hue: Annotated[float, Field(ge=0.0, le=0.5)]


class Mixing(Section):
    """Strong views, made on the device: the two mixes and the implicit-consistency view."""

    cutmix_beta: Positive
    cutmix_jitter: Jitter
    blur: Share
    blur_sigma: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    flip: Share
    strong_jitter: Jitter
    grayscale: Share


class Optimizer(Section):
    """Optimiser and schedule, shared by warm-up and training."""

    name: Literal["adamw", "sgd"]
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]  # adamw
    momentum: Share  # sgd
    weight_decay: NotNegative
    head_multiplier: Positive  # learning rate of the head over that of the backbone
    ramp_steps: Count  # linear learning-rate ramp at the start
    ramp_ratio: Share
    power: NotNegative
    horizon: AtLeastOne | None  # step at which the polynomial reaches 0; null: the last step


class Length(Section):
    """How long: a number of optimiser steps, or of passes over the labelled images."""

    steps: Count | None
    epochs: AtLeastOne | None
    learning_rate: Positive

    @model_validator(mode="after")
    def _one_of(self) -> Length:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs, and null for the other")
        return self


class Warmup(Length):
    """The supervised start that every method of a cell shares; steps: 0 leaves it out."""


class Train(Length):
    """The semi-supervised phase."""

    validate_every: AtLeastOne  # epochs
    probe_images: Count  # unlabelled images on which pseudo-labels are judged at each validation


class Teacher(Section):
    """What the teacher-based methods share."""

    threshold: Share
    ema_decay: Share
    unlabelled_weight: NotNegative
    consistency_weight: NotNegative
    mixes: Annotated[list[Literal["cutmix", "classmix"]], Field(min_length=1)]  # taken in turn by epoch
    normalisation: Literal["running", "batch"]  # statistics the teachers label with


class Supervised(Section):
    """Goes on with the labelled images alone; nothing to set."""


class Methods(Section):
    """Each method's own settings; a method's name is its file's name in dualteacher/methods/."""

    supervised: Supervised | None = None
    mean_teacher: Teacher | None = None
    dual_teacher: Teacher | None = None


class Inference(Section):
    """How a whole image is predicted, in validation and evaluation alike."""

    mode: Literal["whole", "slide"]
    batch: AtLeastOne  # images of one size predicted together
    resize: Annotated[list[AtLeastOne], Field(min_length=2, max_length=2)] | None  # [long, short]; null: as is
    multiple: AtLeastOne  # both sides are rounded to a multiple of this
    window: AtLeastOne  # slide: side of the window, pixels
    stride: AtLeastOne  # slide: step between windows, pixels


class Evaluate(Section):
    """The final evaluation."""

    scales: Annotated[list[Positive], Field(min_length=1)]
    flip: bool
    gallery: AtLeastOne  # images in the gallery


class Report(Section):
    """The report's words."""

    title: str
    baseline: Name  # the method the others are compared with


class Runtime(Section):
    """The machine. precision and compile change the numbers and are tracked; the rest is not."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
    precision: Literal["float32", "bfloat16"]
    compile: bool
    threads: AtLeastOne  # CPU threads a job
    workers: Count  # loader processes a job
    checkpoint_minutes: NotNegative  # 0: after every step


class Settings(Section):
    """All of params.yaml."""

    grid: Grid
    datasets: dict[Name, BlueMarble]
    partition: dict[Name, Partition]
    model: Model
    batch: Batch
    augment: Augment
    mixing: Mixing
    optimizer: Optimizer
    warmup: Warmup
    train: Train
    methods: Methods
    inference: Inference
    evaluate: Evaluate
    report: Report
    runtime: Runtime

    @model_validator(mode="after")
    def _grid_is_described(self) -> Settings:
        described = {
            "dataset": set(self.datasets),
            "partition": set(self.partition),
            "method": {name for name, value in self.methods if value is not None},
        }
        where = {"dataset": "datasets", "partition": "partition", "method": "methods"}
        for key, known in described.items():
            for value in getattr(self.grid, key):
                if value not in known:
                    raise ValueError(
                        f"grid.{key} names '{value}', which {where[key]} does not describe;"
                        f" described: {', '.join(sorted(known)) or 'none'}"
                    )
        return self


def load(path: str | os.PathLike[str] = "params.yaml") -> Settings:
    """Read and validate a settings file; UserError in one line on any mistake."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; run from the project's folder, or `make use PRESET=bluemarble` to make one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{place}: not valid YAML: {getattr(error, 'problem', error)}") from None
    return parse(raw, str(path))


def parse(raw: Any, origin: str = "params.yaml") -> Settings:
    """Validate an already parsed settings mapping."""
    if not isinstance(raw, dict):
        raise UserError(f"{origin}: a mapping of sections is expected, not {type(raw).__name__}")
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{origin}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """The first mistake in words, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    kind, value = first["type"], first.get("input")
    if kind == "extra_forbidden":
        text = f"unknown key '{key}'{_similar(first['loc'])}"
    elif kind == "missing":
        text = f"key '{key}' is missing"
    else:
        message = first["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        shown = "" if isinstance(value, dict) else f" = {value!r}"
        text = f"{key}{shown}: {message}" if key else message
        if isinstance(value, str) and kind.startswith(("float", "int")):
            text += " (YAML reads 1e-3 as text: write 0.001)"
    more = len(problems) - 1
    return text + (f" (and {more} more mistake{'s' if more > 1 else ''})" if more else "")


def _similar(location: tuple[int | str, ...]) -> str:
    """«; did you mean 'x'? allowed: …» for an unknown key."""
    import difflib

    model: Any = Settings
    for part in location[:-1]:
        field = model.model_fields.get(str(part)) if hasattr(model, "model_fields") else None
        if field is None:
            return ""
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if hasattr(c, "model_fields")), None)
        if model is None:
            return ""
    allowed = sorted(model.model_fields)
    near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
    return (f"; did you mean '{near[0]}'?" if near else "") + f" (allowed: {', '.join(allowed)})"
