"""Copies of the project in which the engines can run: never in the project itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dualteacher.workflow import presets
from tests.workflow import warm

ROOT = Path(__file__).parents[2]
STUB = Path(__file__).with_name("stub.py")
NONE = {"partition": [], "method": []}
SMALL = {"dataset": ["bluemarble"], "partition": ["eighth"], "method": ["supervised", "dual_teacher"], "seed": [0],
         "also": {"bound": NONE, "ablation": NONE}}  # fmt: skip


def copy_project(root: Path) -> None:
    """The project's files but for its tests, with what Python and Numba have compiled: seconds in every copy."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    cached = ROOT.glob("dualteacher/**/__pycache__/*")
    compiled = [path.relative_to(ROOT) for path in cached if path.suffix in (".pyc", ".nbi", ".nbc")]
    for name in (*filter(None, listed), *map(str, compiled)):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    presets.use("bluemarble", root / "presets", root / "params.yaml")  # whatever is being tried out


class Project:
    """A copy of the project, git-initialised; `ran()` tells what the stub's commands did since last asked."""

    def __init__(self, root: Path, stub: bool) -> None:
        self.root = root
        self.environment: dict[str, str] = {}  # in addition, for its commands
        self.warm = True  # run them by warm.py: not in Slurm, or where Python is started in a locale
        copy_project(root)
        if stub:
            shutil.copy(STUB, root / "dualteacher" / "__main__.py")
        self("git", "init", "--quiet")

    def __call__(self, *command: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command with this interpreter's programs; the exit code is checked unless `code` is None."""
        nobody = {
            f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        bin_folder = str(Path(sys.executable).parent)  # not resolved: a venv's python is a link out of it
        programs = [str(warm.programs())] if self.warm else []
        path = os.pathsep.join([*programs, bin_folder, os.environ["PATH"]])
        environment = {**os.environ, **nobody, "PATH": path}
        for name in ("PYTHONPATH", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # of the `make test` that runs this
            environment.pop(name, None)
        environment |= {"COLUMNS": "200", **self.environment}
        done = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
            timeout=540,  # less than a test's, so that the words of a command that hangs are seen
        )  # fmt: skip
        assert code is None or done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def edit(self, key: str, value: Any) -> None:
        """Set a dotted key of params.yaml."""
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_text())
        place = params
        *sections, last = key.split(".")
        for section in sections:
            place = place[section]
        place[last] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def touch_up(self, source: str) -> None:
        """Edit a source file."""
        with open(self.root / source, "a") as file:
            file.write("\n# edited\n")

    def ran(self) -> list[str]:
        """Stages that ran since last asked, each job one entry, sorted."""
        path = self.root / "ran.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return sorted(lines)


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Project]:
    """Makes a copy: with `stub`, its commands write their files in a moment, for a small grid."""

    def make(stub: bool = True) -> Project:
        (tmp_path / "project").mkdir()
        made = Project(tmp_path / "project", stub)
        if stub:
            made.edit("grid", SMALL)
        return made

    return make
