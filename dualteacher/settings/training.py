"""Network, batches, augmentation, loss and schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dualteacher.settings.base import AtLeastOne, Count, NotNegative, Positive, Section, Share
from dualteacher.system import files, paths


class Model(Section):
    """The network; see models/segmenter.py."""

    architecture: Literal["segformer", "deeplabv3plus", "dpt"]  # type of head
    backbone: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")]  # mit_b0 … mit_b5, or a name in timm
    weights: Annotated[str, Field(min_length=1)]  # wheel, timm, none, a file's path, or path#network
    head_width: AtLeastOne  # channels of the head
    head_norm: Literal["batch", "group"]  # normalisation in the head; group: for small batches; dpt has none
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]  # dropout before the classifier
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)]  # stochastic depth of the student; teachers run at full depth
    freeze: Literal["none", "backbone", "backbone_norms"] | AtLeastOne  # not trained; a number: so many first blocks
    recompute: bool  # gradient checkpointing of the backbone: less memory, one more forward pass
    sync_norm: bool  # synchronise batch normalisation over a run's processes

    @property
    def own_weights(self) -> tuple[Path, str] | None:
        """(user's checkpoint, name of a network in it or ""); None for wheel, timm and none.

        If a file exists whose name contains the #, it takes precedence.
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
    """Images per optimiser step, over all processes.

    A group corresponds to one GPU of the published code: images mix only within a group, and losses are normalised
    within it. Each process runs its groups in `accumulate` consecutive passes, to save memory.
    """

    labelled: AtLeastOne  # labelled images per step
    unlabelled: AtLeastOne  # unlabelled images per step
    groups: AtLeastOne  # number of groups; images mix within a group
    accumulate: AtLeastOne  # passes per process over its groups
    crop: Annotated[int, Field(ge=8)]  # side of the square crop, pixels
    norm: Literal["joint", "by_view", "frozen"]  # batch-norm statistics of the student in training

    @model_validator(mode="after")
    def _whole_groups(self) -> Batch:
        for key in ("labelled", "unlabelled"):
            if getattr(self, key) % self.groups:
                raise ValueError(f"batch.{key} ({getattr(self, key)}) must be a multiple of groups ({self.groups})")
        if self.groups % self.accumulate:
            raise ValueError(f"batch.groups ({self.groups}) must be a multiple of accumulate ({self.accumulate})")
        return self


class Augment(Section):
    """Weak augmentation of every training image."""

    resize: Annotated[list[AtLeastOne], Field(min_length=2, max_length=2)] | None  # [long, short]; null: unchanged
    scale: Annotated[list[Positive], Field(min_length=2, max_length=2)]  # range of the random factor
    class_share: Annotated[float, Field(gt=0.0, le=1.0)]  # redraw crops with more than this share of one class
    flip: Share  # probability of a horizontal flip
    turns: bool  # random turns by 90°, for pictures without an up, such as aerial ones
    photometric: bool  # random brightness, contrast, saturation and hue

    @model_validator(mode="after")
    def _order(self) -> Augment:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"augment.scale must be [low, high], not {self.scale}")
        if self.resize and self.resize[0] < self.resize[1]:
            raise ValueError(f"augment.resize must be [long, short], not {self.resize}")
        return self


class Sampling(Section):
    """Sampling of labelled images and of their crops."""

    rare_classes: Positive | None  # temperature of rare-class sampling; lower favours rarer classes; null: off


class Jitter(Section):
    """Colour jitter; factors are drawn from 1 ± the value (hue: ± the value, in turns)."""

    probability: Share  # probability per image
    brightness: Share  # factor is drawn from 1 ± this
    contrast: Share  # factor is drawn from 1 ± this
    saturation: Share  # factor is drawn from 1 ± this
    hue: Annotated[float, Field(ge=0.0, le=0.5)]  # shift is drawn from ± this, in turns


class Mixing(Section):
    """Strong augmentation, on the device: CutMix, ClassMix and the strong view for implicit consistency."""

    cutmix_beta: Positive  # the box's share of the area is drawn from Beta(b, b)
    cutmix_jitter: Jitter  # colour jitter after CutMix
    blur: Share  # probability of blur after CutMix
    blur_sigma: Annotated[list[Positive], Field(min_length=2, max_length=2)]  # range, pixels
    flip: Share  # probability of a horizontal flip after CutMix
    strong_jitter: Jitter  # colour jitter of the strong view
    grayscale: Share  # probability of greyscale in the strong view


Term = Literal["cross_entropy", "ohem", "focal", "dice", "tversky"]
ClassWeights = Literal["none", "inverse_sqrt", "effective_number"] | list[Positive]


class Loss(Section):
    """Loss on labelled images."""

    terms: Annotated[list[Term], Field(min_length=1)]  # added up; ohem: cross entropy of the hardest pixels only
    ohem_threshold: Share  # ohem: always keep pixels whose true class has at most this probability
    ohem_minimum: Count  # ohem: keep at least this many pixels per group
    focal_gamma: NotNegative  # focal: a pixel's weight is (1 - probability of its class) to this power
    tversky_alpha: NotNegative  # tversky: weight of false positives
    tversky_beta: Positive  # tversky: weight of false negatives
    class_weights: ClassWeights  # from labelled pixel counts, or one weight per class in index order

    @model_validator(mode="after")
    def _each_term_once(self) -> Loss:
        if len(set(self.terms)) != len(self.terms):
            raise ValueError(f"loss.terms contains a duplicate: {self.terms}")
        if {"cross_entropy", "ohem"} <= set(self.terms):
            raise ValueError("loss.terms: ohem is cross_entropy on fewer pixels; choose one of them")
        return self


class Optimizer(Section):
    """Optimiser and schedule, shared by warm-up and training."""

    name: Literal["adamw", "sgd"]  # optimiser
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]  # for adamw
    momentum: Share  # for sgd
    weight_decay: NotNegative  # not applied to normalisation layers
    head_multiplier: Positive  # ratio of the head's learning rate to the backbone's
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)]  # factor on the learning rate per block, from the last down
    ramp_steps: Count  # steps of linear learning-rate ramp at the start
    ramp_ratio: Share  # the ramp starts at this fraction of the learning rate
    power: NotNegative  # exponent of the polynomial decay after the ramp
    horizon: AtLeastOne | None  # step at which the polynomial reaches 0; null: the last step
    bad_batch: Literal["stop", "skip"]  # if a loss or gradient is NaN or infinite


class Length(Section):
    """Length of training, in optimiser steps or in epochs."""

    steps: Count | None  # optimiser steps
    epochs: AtLeastOne | None  # passes over the labelled images; train: see epochs_of
    learning_rate: Positive  # peak learning rate of the backbone

    @model_validator(mode="after")
    def _one_of(self) -> Length:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs; set the other to null")
        return self


class Warmup(Length):
    """Supervised warm-up, shared by all methods of a partition and seed; `steps: 0` skips it."""


class Train(Length):
    """Main training phase."""

    epochs_of: Literal["labelled", "unlabelled"]  # an epoch is one pass over these; labelled if none are unlabelled
    validate_every: AtLeastOne  # epochs between validations
    probe_images: Count  # unlabelled images to check pseudo-labels on at each validation
