"""A batch that leaves batch normalisation one value per channel is refused before anything is made."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dualteacher import settings
from dualteacher.system.errors import UserError

from .test_settings import RAW

NONE: dict[str, list[str]] = {"partition": [], "method": []}
SMALL = {
    "grid.method": ["supervised", "dual_teacher"], "grid.also": {"bound": NONE, "ablation": NONE},
    "model.backbone": "mobilenetv2_100", "model.architecture": "segformer", "model.sync_norm": False,
    "batch": {"labelled": 1, "unlabelled": 1, "groups": 1, "accumulate": 1, "crop": 32, "norm": "joint"},
}  # fmt: skip
TWO = {"batch.labelled": 2, "batch.unlabelled": 2, "batch.groups": 2}
DEEPLAB = {"model.backbone": "mit_b0", "model.architecture": "deeplabv3plus", "batch.crop": 512}
GROUPS = DEEPLAB | {"model.head_norm": "group"}
NO_WARMUP = {"warmup.steps": 0, "warmup.epochs": None, "report.baseline": "dual_teacher"}

BY_VIEW = NO_WARMUP | {"grid.method": ["dual_teacher"], "batch.norm": "by_view"}
FROZEN = {"batch.norm": "frozen"}


def parse(changes: dict[str, Any]) -> settings.Settings:
    raw = copy.deepcopy(RAW)
    for name, value in (SMALL | changes).items():
        *above, last = name.split(".")
        section = raw
        for key in above:
            section = section[key]
        section[last] = copy.deepcopy(value)
    return settings.parse(raw)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch.crop": 33},
        {"batch.labelled": 2},
        TWO,
        {"model.backbone": "mit_b0"},
        {"model.backbone": "vit_small_patch14_dinov2", "model.architecture": "dpt", "batch.crop": 28},
        DEEPLAB | TWO,
        GROUPS,
        GROUPS | {"model.backbone": "mobilenetv2_100", "batch.crop": 17},
        TWO | {"runtime.processes": 2, "model.sync_norm": True},
        NO_WARMUP | {"grid.method": ["dual_teacher"]},  # its student sees both batches in one pass
        FROZEN,
        {"grid.method": ["supervised"], "batch.labelled": 2, "batch.norm": "by_view"},
    ],
)
def test_two_values_are_enough(changes: dict[str, Any]) -> None:
    parse(changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "batch.labelled = 1|raise batch.labelled to 2 or more, or batch.crop to more than 32"),
        ({"batch.crop": 8}, "batch.labelled = 1|batch.crop = 8 leaves one value per image at stride 32"),
        (DEEPLAB, "batch.labelled = 1|architecture = deeplabv3plus|to 2 or more, or set model.head_norm to group"),
        (
            GROUPS | {"model.backbone": "resnet50", "batch.crop": 16},
            "crop = 16 leaves one value per image at stride 16",
        ),
        (TWO | {"batch.accumulate": 2}, "batch.labelled = 2|batch.accumulate = 2|raise batch.labelled to 4"),
        (TWO | {"runtime.processes": 2}, "batch.labelled = 2|runtime.processes = 2|raise batch.labelled to 4"),
        (DEEPLAB | TWO | {"runtime.processes": 2, "model.sync_norm": True}, "batch.labelled = 2|raise batch.labelled"),
        ({"batch.labelled": 2, "methods.dual_teacher.normalisation": "batch"}, "batch.unlabelled = 1"),
        (NO_WARMUP, "batch.labelled = 1"),  # the supervised method's
        (BY_VIEW, "batch.labelled = 1"),
        (BY_VIEW | {"batch.labelled": 2}, "batch.unlabelled = 1"),
        (FROZEN | DEEPLAB, "batch.labelled = 1"),
        (FROZEN | {"methods.dual_teacher.normalisation": "batch"}, "batch.unlabelled = 1"),
    ],
)
def test_one_value_is_refused_in_one_line_that_names_the_settings(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=r"^params.yaml: batch.\w+ = \d gives one image per pass") as caught:
        parse(changes)
    assert all(word in str(caught.value) for word in words.split("|")), caught.value


def test_frozen_needs_pretrained_statistics() -> None:
    with pytest.raises(UserError, match=r"^params.yaml: batch.norm = frozen .* model.weights = none has none"):
        parse(FROZEN | {"model.weights": "none"})
