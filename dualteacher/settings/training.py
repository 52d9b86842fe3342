"""The network, its batches, augmentation, loss and schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dualteacher.settings.base import AtLeastOne, Count, NotNegative, Positive, Section, Share
from dualteacher.system import files, paths


class Model(Section):
    """The network; see models/segmenter.py."""

    architecture: Literal["segformer", "deeplabv3plus"]  # the head and how it takes features
    backbone: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")]  # mit_b0 … mit_b5, or timm's name
    weights: Annotated[str, Field(min_length=1)]  # wheel, timm, none, a file's path, or path#network
    head_width: AtLeastOne  # channels
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]  # before the classifier
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)]  # the student's; teachers run at full depth
    sync_norm: bool  # batch normalisation over all processes of a run

    @property
    def own_weights(self) -> tuple[Path, str] | None:
        """(the user's checkpoint, the network to take from it or ""); None for wheel, timm and none.

        A file whose own name has a # wins over a network's name after it.
        """
        if self.weights in ("wheel", "timm", "none"):
            return None
        path, mark, network = self.weights.rpartition("#")
        if not mark or files.is_file(Path(self.weights)):
            return Path(self.weights), ""
        return Path(path), network

    @model_validator(mode="after")
    def _own_weights_are_not_overwritten(self) -> Model:
        own = self.own_weights
        if own is not None and own[0] == paths.backbone_weights(self.backbone):
            raise ValueError(f"weights = {own[0]}: this program writes its own file there; put yours elsewhere")
        return self


class Batch(Section):
    """Images a step, over all processes.

    A group is what the release had on one GPU: its images mix among themselves and its losses have their own
    denominators. Each process runs its groups in `accumulate` passes, one after another, to save memory.
    """

    labelled: AtLeastOne  # images a step
    unlabelled: AtLeastOne  # images a step
    groups: AtLeastOne  # images mix within a group
    accumulate: AtLeastOne  # passes of a process over its groups
    crop: Annotated[int, Field(ge=8)]  # side of the square crop, pixels

    @model_validator(mode="after")
    def _whole_groups(self) -> Batch:
        for key in ("labelled", "unlabelled"):
            if getattr(self, key) % self.groups:
                raise ValueError(f"batch.{key} ({getattr(self, key)}) must be a multiple of groups ({self.groups})")
        if self.groups % self.accumulate:
            raise ValueError(f"batch.groups ({self.groups}) must be a multiple of accumulate ({self.accumulate})")
        return self


class Augment(Section):
    """The weak augmentation of every training image."""

    resize: Annotated[list[AtLeastOne], Field(min_length=2, max_length=2)] | None  # [long, short]; null: as is
    scale: Annotated[list[Positive], Field(min_length=2, max_length=2)]  # random factor, from … to
    class_share: Annotated[float, Field(gt=0.0, le=1.0)]  # redraw a crop one class fills beyond this share
    flip: Share  # probability
    photometric: bool  # random brightness, contrast, saturation and hue

    @model_validator(mode="after")
    def _order(self) -> Augment:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"augment.scale runs from small to large, not {self.scale}")
        if self.resize and self.resize[0] < self.resize[1]:
            raise ValueError(f"augment.resize is [long, short], not {self.resize}")
        return self


class Sampling(Section):
    """Which labelled images a step takes, and from where its crops."""

    rare_classes: Positive | None  # temperature of rare-class sampling, small: the rarest alone; null: none


class Jitter(Section):
    """Colour jitter; a factor is drawn from 1 ± the given range (hue: ± the range, in turns)."""

    probability: Share  # of an image
    brightness: Share  # the factor is drawn from 1 ± this
    contrast: Share  # the factor is drawn from 1 ± this
    saturation: Share  # the factor is drawn from 1 ± this
    hue: Annotated[float, Field(ge=0.0, le=0.5)]  # ± this, in turns of the colour circle


class Mixing(Section):
    """Strong views, made on the device: the two mixes and the implicit-consistency view."""

    cutmix_beta: Positive  # the box's share is drawn from Beta(b, b)
    cutmix_jitter: Jitter  # after CutMix
    blur: Share  # probability, after CutMix
    blur_sigma: Annotated[list[Positive], Field(min_length=2, max_length=2)]  # pixels, from … to
    flip: Share  # probability, after CutMix
    strong_jitter: Jitter  # of the strong view
    grayscale: Share  # probability, of the strong view


ClassWeights = Literal["none", "inverse_sqrt", "effective_number"] | list[Positive]


class Loss(Section):
    """The loss on labelled images."""

    supervised: Literal["cross_entropy", "ohem"]  # ohem: of the hardest pixels only
    ohem_threshold: Share  # pixels whose class has at most this probability always count
    ohem_minimum: Count  # so many pixels of a group count at least
    class_weights: ClassWeights  # of the labelled pixels, from their counts; or one weight a class, in their order


class Optimizer(Section):
    """Optimiser and schedule, shared by warm-up and training."""

    name: Literal["adamw", "sgd"]  # adamw or sgd
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]  # adamw
    momentum: Share  # sgd
    weight_decay: NotNegative  # not of normalisation layers
    head_multiplier: Positive  # learning rate of the head over that of the backbone
    ramp_steps: Count  # linear learning-rate ramp at the start
    ramp_ratio: Share  # of the learning rate, where the ramp begins
    power: NotNegative  # of the polynomial decay after the ramp
    horizon: AtLeastOne | None  # step at which the polynomial reaches 0; null: the last step
    bad_batch: Literal["stop", "skip"]  # when a loss or gradient is not a number


class Length(Section):
    """How long: a number of optimiser steps, or of passes over the labelled images."""

    steps: Count | None  # optimiser steps
    epochs: AtLeastOne | None  # passes over the labelled images
    learning_rate: Positive  # the backbone's, at its peak

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
