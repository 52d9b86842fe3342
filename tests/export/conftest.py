"""A small trained cell with the files around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dualteacher.data import class_table, partition
from dualteacher.data.pack import Pack
from dualteacher.models import weights
from dualteacher.stages import evaluate, train, warmup
from dualteacher.system import files, paths
from tests.core.conftest import CLASSES, toy_settings
from tests.export.scenes import write_scenes

SIZES = [(64, 96), (70, 110)]
CELL = paths.Cell("toy", "some", "supervised", 0)
# A backbone with TensorFlow's padding, whose sizes are the hardest to follow.
BACKBONE = "tf_mobilenetv3_small_minimal_100"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder has data and a cell that tells the three classes mostly right; its path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        torch.set_num_threads(1)
        settings = toy_settings(
            model={"backbone": BACKBONE},
            batch={"labelled": 4, "crop": 48},
            optimizer={"head_multiplier": 10.0, "ramp_steps": 5},
            train={"steps": 120, "validate_every": 1000, "learning_rate": 0.001},
        )
        dataset = paths.Dataset("toy")
        write_scenes(dataset.train, 14, 1, SIZES)
        write_scenes(dataset.val, 5, 2, SIZES, unmasked=1)
        files.write_json(dataset.classes, class_table.as_json(CLASSES))
        pack = Pack(dataset.train)
        partition.write(paths.Partition("toy", "some", 0).table, pack.ids, pack.ids)
        weights.prepare_backbone(settings.model, Path("nothing"))
        warmup.run(settings, "toy", "some", 0)
        train.run(settings, "toy", "some", "supervised", 0)
        evaluate.run(settings, "toy", "some", "supervised", 0)
        yield CELL.folder
