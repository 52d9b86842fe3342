"""Inference, evaluation and the report."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dualteacher.settings.base import AtLeastOne, Name, Positive, Section

Blend = Literal["mean", "taper"]


class Inference(Section):
    """How images are predicted, for validation and evaluation."""

    mode: Literal["whole", "slide"]  # the whole image at once, or a sliding window
    batch: AtLeastOne  # images of equal size to predict together
    resize: Annotated[list[AtLeastOne], Field(min_length=2, max_length=2)] | None  # [long, short]; null: unchanged
    multiple: AtLeastOne  # round both sides to a multiple of this
    window: AtLeastOne  # slide: side of the window, pixels
    stride: AtLeastOne  # slide: step between windows, pixels
    blend: Blend  # slide: overlapping windows count alike, or fade out towards their edges (taper)


class Evaluate(Section):
    """Final evaluation."""

    scales: Annotated[list[Positive], Field(min_length=1)]  # average predictions at these scales
    flip: bool  # also average with the mirrored image
    weights: Literal["student", "average", "teachers"]  # the student's, their moving average, or the teachers' mean
    gallery: AtLeastOne  # number of images in the gallery


class Report(Section):
    """The report."""

    title: str  # title of the page
    baseline: Name  # method that the others are compared with
