"""What runs again after an edit, with either engine: what the edit changes, and nothing else."""

from __future__ import annotations

import pytest
from test_own_data import FOLDER

pytestmark = pytest.mark.slow

ENGINES = {"snakemake": ("snakemake", "--quiet", "all"), "dvc": ("dvc", "repro", "--quiet")}
CELLS = [f"bluemarble-eighth-{method}-0" for method in ("dual_teacher", "supervised")]
AFTER_TRAINING = [*(f"evaluate {cell}" for cell in CELLS), "report", *(f"train {cell}" for cell in CELLS)]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_edit_reruns_what_it_changes(project, engine):
    made, run = project(), ENGINES[engine]
    made.edit("datasets.bluemarble", FOLDER)
    made(*run)
    assert len(made.ran()) == 11

    made.edit("runtime.threads", 2)
    made.edit("runtime.loggers", ["dvclive"])
    made(*run)
    assert made.ran() == [], "nothing changed but how many threads a job may use and where it logs"

    made.edit("train.learning_rate", 0.5)
    made(*run)
    assert made.ran() == AFTER_TRAINING, "a key of the train section"

    made.touch_up("dualteacher/core/mixing.py")
    made(*run)
    assert made.ran() == AFTER_TRAINING, "a source that only training uses"

    made.touch_up("dualteacher/methods/dual_teacher.py")
    made(*run)
    others = ["train bluemarble-eighth-supervised-0"] if engine == "dvc" else []  # which watches all methods' sources
    own = [line for line in AFTER_TRAINING if "supervised" not in line]
    assert made.ran() == sorted([*own, *others]), "one method's source"

    looks = [{"name": "sea", "color": [0, 0, 9], "value": 0}, {"name": "land", "color": [0, 9, 0], "value": 1}]
    made.edit("datasets.bluemarble.classes", looks)
    made(*run)
    same = ["download bluemarble", "prepare bluemarble"] if engine == "dvc" else []  # with the same outputs
    drawn = ["classes bluemarble", *(line for line in AFTER_TRAINING if not line.startswith("train"))]
    assert made.ran() == sorted([*drawn, *same]), "new names and colours"

    made.edit("grid.seed", [0, 1])
    made(*run)
    seed1 = [line.replace("-0", "-1") for line in AFTER_TRAINING if line != "report"]
    assert made.ran() == sorted([*seed1, "partition bluemarble-eighth-1", "warmup bluemarble-eighth-1", "report"]), (
        "a new seed"
    )
