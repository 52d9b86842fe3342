"""docs/add-a-method.md: its blocks, put where it says, make a method that trains."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HALF_WRITTEN = shutil.ignore_patterns("*.pyc.*", "*.tmp.*")  # what Python and Numba have compiled saves ten seconds
UNION = "AnyMethod = Annotated[\n    Supervised\n"  # the new section stands before it, its name in it
SCRIPT = """
import sys
from pathlib import Path

import torch
import yaml

from dualteacher import settings
from dualteacher.data import partition
from dualteacher.system import paths
from dualteacher.workflow import sources
from dualteacher.data.pack import Pack
from dualteacher.models import weights
from dualteacher.stages import evaluate, train, warmup
from tests.core.conftest import toy_settings, write_pack

torch.set_num_threads(1)
own = yaml.safe_load(sys.argv[1])["self_training"]
lengths = {"warmup": {"steps": 2, "epochs": None}, "train": {"steps": 4, "epochs": None}}
wanted = toy_settings(methods={"self_training": own}, **lengths)
place = paths.Dataset("toy")
place.folder.mkdir(parents=True)
write_pack(place.train, 12, seed=1, unmasked=2)
write_pack(place.val, 4, seed=2)
ids = Pack(place.train).ids
partition.write(paths.Partition("toy", "some", 0).table, ids, ids[:5])
weights.prepare_backbone(wanted.model, Path("nothing"))
warmup.run(wanted, "toy", "some", 0)
train.run(wanted, "toy", "some", "self_training", 0)
evaluate.run(wanted, "toy", "some", "self_training", 0)
assert "dualteacher/methods/self_training.py" not in sources.closure("train"), "the rule adds it"
"""


def blocks() -> dict[str, str]:
    """The page's code: the file, the section of settings, the parameters."""
    text = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in found] == ["python", "python", "yaml"]
    return dict(zip(("file", "section", "params"), (code for _, code in found), strict=True))


def test_the_union_that_the_page_names_is_there() -> None:
    assert "AnyMethod" in (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
    assert UNION in (ROOT / "dualteacher" / "settings" / "methods.py").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_s_method_trains(tmp_path: Path) -> None:
    import pandas as pd

    shutil.copytree(ROOT / "dualteacher", tmp_path / "dualteacher", ignore=HALF_WRITTEN)
    (tmp_path / "tests" / "core").mkdir(parents=True)
    for name in (
        "tests/__init__.py",
        "tests/core/__init__.py",
        "tests/core/conftest.py",
        "presets/tiny.yaml",
        "presets/base.yaml",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    made = blocks()
    (tmp_path / "dualteacher" / "methods" / "self_training.py").write_text(made["file"], encoding="utf-8")
    settings = tmp_path / "dualteacher" / "settings" / "methods.py"
    text = settings.read_text(encoding="utf-8").replace(UNION, f"{made['section']}\n\n{UNION}    | SelfTraining\n")
    settings.write_text(text, encoding="utf-8")
    (tmp_path / "run.py").write_text(SCRIPT, encoding="utf-8")
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "run.py", made["params"]],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cell = tmp_path / "results/runs/toy/some/self_training/seed0"
    history = pd.read_parquet(cell / "history.parquet")
    probed = history[history["val_miou"].notna()]
    assert history["loss_mix"].notna().all() and len(probed) and probed["probe_accuracy_all"].notna().all()
    assert probed["probe_coverage"].between(0, 1).all() and history["teacher"].isna().all()
    cost = json.loads((cell / "cost.json").read_text())
    assert (cost["student_images"], cost["teacher_images"]) == (4 * 4, 4 * 2)
    assert 0 <= json.loads((cell / "metrics.json").read_text())["miou"] <= 1
