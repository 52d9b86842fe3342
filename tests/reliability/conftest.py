"""A project of tiny images in a folder, and a process that runs the program's commands in it cheaply."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dualteacher.workflow import presets
from tests.core.conftest import CLASSES, ROOT, png, scene

CELL = ("--dataset", "toy", "--partition", "some", "--seed", "0")
STAGES: dict[str, list[str]] = {
    "download": ["download", "--dataset", "toy"],
    "weights": ["download", "--weights"],
    "prepare": ["prepare", "--dataset", "toy"],
    "classes": ["classes", "--dataset", "toy"],
    "partition": ["partition", *CELL],
    "warmup": ["warmup", *CELL],
    "train": ["train", *CELL, "--method", "dual_teacher"],
    "evaluate": ["evaluate", *CELL, "--method", "dual_teacher"],
    "report": ["report"],
}
BEFORE_TRAINING = ("download", "weights", "prepare", "classes", "partition")
TRAINING = ("warmup", "train", "evaluate")
NAMES = {4: "-rf", 5: "a b", 6: 'it\'s "so"', 7: "größe 山", 8: "x; touch pwned", 9: "$(touch pwned)", 12: "a..b"}


class Spawner:
    """A process that has imported the program and forks a child for every run; see spawner.py."""

    def __init__(self, *prefix: str) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.reliability.spawner"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        self._answer()

    def __call__(self, folder: Path, *stages: str | list[str], code: int | None = 0, **request: Any) -> str:
        """Run stages (by name, or a command's words) in `folder`; what they said. The exit code is checked."""
        commands = [STAGES[stage] if isinstance(stage, str) else stage for stage in stages]
        output = Path(request.pop("output", folder.with_name(folder.name + ".output")))
        asked = {"folder": str(folder), "commands": commands, "output": str(output), **request}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        self.code = self._answer()["code"]
        said = output.read_text()
        assert code is None or self.code == code, f"exit code {self.code}, not {code}:\n{said}"
        return said

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process that runs the commands has died"
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="session")
def spawn() -> Iterator[Spawner]:
    """Runs commands: spawn(folder, "prepare", "partition"). They have no network, where a namespace is allowed."""
    isolated = subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0
    spawner = Spawner(*(["unshare", "--net"] if isolated else []))
    yield spawner
    spawner.close()


def parameters(**sections: dict[str, Any]) -> dict[str, Any]:
    """params.yaml for the toy project: one cell, a few steps."""
    raw = presets.load("tiny", ROOT / "presets")
    raw["grid"] |= {"dataset": ["toy"], "partition": ["some"], "method": ["dual_teacher"], "seed": [0]}
    raw["datasets"] = {
        "toy": {
            "source": "folder", "folder": "own_data", "images": "images", "masks": "masks", "mask_suffix": "",
            "unlabelled": "unlabelled", "validation": {"share": 0.3, "images": None, "masks": None}, "block": "image",
            "classes": [{"name": c.name, "color": list(c.color), "value": i} for i, c in enumerate(CLASSES)],
            "ignore": [], "on_error": "stop",
        }
    }  # fmt: skip
    raw["partition"] = {"some": raw["partition"]["eighth"] | {"fraction": None, "count": 5, "list": None}}
    raw["model"] |= {"head_width": 16}
    raw["batch"] |= {"crop": 32}
    raw["inference"] |= {"batch": 2}
    raw["train"] |= {"steps": 8, "validate_every": 1}
    raw["report"] |= {"baseline": "dual_teacher"}
    raw["runtime"] |= {"device": "cpu", "checkpoint_steps": 1}
    for name, values in sections.items():
        raw[name] = raw[name] | values
    return raw


def write_parameters(folder: Path, raw: dict[str, Any]) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))


def write_images(folder: Path, labelled: int = 12, unlabelled: int = 3) -> None:
    """Images of two sizes with masks, and some without."""
    rng = np.random.default_rng(5)
    for name in ("images", "masks", "unlabelled"):
        (folder / name).mkdir(parents=True)
    for i in range(labelled + unlabelled):
        image, mask = scene(rng, ((48, 64), (56, 40))[i % 2])
        name = f"{NAMES.get(i, f'photo{i:02d}')}.png"
        if i < labelled:
            (folder / "masks" / name).write_bytes(png(mask))
        (folder / ("images" if i < labelled else "unlabelled") / name).write_bytes(png(image))


@pytest.fixture(scope="session")
def prepared(spawn: Spawner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project up to its partition; copy it. Attempts to reach the network are noted in `attempts` beside it."""
    folder = tmp_path_factory.mktemp("prepared") / "project"
    folder.mkdir()
    write_parameters(folder, parameters())
    write_images(folder / "own_data")
    spawn(folder, *BEFORE_TRAINING, attempts=str(folder.with_name("attempts")))
    return folder


@pytest.fixture(scope="session")
def finished(spawn: Spawner, prepared: Path) -> Path:
    """The same project after an undisturbed run of all stages; `places` lists where it could have been killed."""
    folder = copy(prepared, prepared.parent / "finished")
    attempts = str(folder.with_name("attempts"))
    spawn(folder, *TRAINING, places=str(folder / "places"), attempts=attempts)
    spawn(folder, "report", attempts=attempts)
    return folder


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def content(folder: Path, *parts: str) -> dict[str, str]:
    """Hash by path of every file of data and results (or of `parts`) that must repeat to the byte.

    Not the report, which tells how long the runs took.
    """
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in parts or ("data", "results/runs")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file() and path.name != "cost.json"
    }
