"""The commands of README and docs, run in the order of their page.

Those of the program run in a small finished project, those of the engines in one whose stages take no time.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from dualteacher.workflow import presets
from tests.docs import pages
from tests.docs.pages import ROOT, RUN, STUB, Command
from tests.reliability.conftest import Spawner
from tests.workflow.conftest import Project

pytestmark = pytest.mark.slow

READY = "READY=Makefile"  # for make: take the environment for installed
SPLIT = ["--dataset", "bluemarble", "--partition", "eighth", "--seed", "0"]
METHODS = ("supervised", "mean_teacher", "dual_teacher")


def of_page(how: str) -> list:
    """A parameter for each page, with its commands of that kind."""
    found: dict[str, list[Command]] = {}
    for command in pages.commands():
        if pages.decision(command) == how:
            found.setdefault(command.page, []).append(command)
    return [pytest.param(commands, id=page) for page, commands in found.items()]


def with_environment(made: Project) -> Project:
    """As a user has it after `make` and `. .venv/bin/activate`, without installing anything."""
    (made.root / ".venv/bin").mkdir(parents=True)
    (made.root / ".venv/bin/activate").write_text("")
    made.environment = {"GNUMAKEFLAGS": READY, "OMP_NUM_THREADS": "1"}
    return made


@pytest.fixture(scope="module")
def finished(spawner: Spawner, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy in which the preset `tiny` has been run."""
    made = with_environment(Project(tmp_path_factory.mktemp("finished"), stub=False))
    presets.use("tiny", made.root / "presets", made.root / "params.yaml")
    for raw in (ROOT / "data").glob("*/raw"):
        ignore = shutil.ignore_patterns("manifest.json")
        shutil.copytree(raw, made.root / raw.relative_to(ROOT), ignore=ignore, dirs_exist_ok=True)
    before = [
        ["download", "--dataset", "bluemarble"],
        ["download", "--weights"],
        ["prepare", "--dataset", "bluemarble"],
        ["classes", "--dataset", "bluemarble"],
    ]
    cells = [[stage, *SPLIT, "--method", method] for method in METHODS for stage in ("train", "evaluate")]
    spawner(made.root, *before, ["partition", *SPLIT], ["warmup", *SPLIT], *cells, ["report"])
    readers_own(made.root)
    return made


def readers_own(root: Path) -> None:
    """What the pages take for granted: photos, a large image, weights of another project."""
    (root / "photos").mkdir()
    for name, side in (("photos/a.jpg", 60), ("photos/b.png", 70), ("mosaic.tif", 90)):
        Image.effect_noise((side + 30, side), 80).convert("RGB").save(root / name)
    (root / "results/runs/sample").mkdir()
    (root / "results/runs/sample/all").symlink_to(root / "results/runs/bluemarble/eighth")
    shutil.copy(root / "results/runs/bluemarble/eighth/dual_teacher/seed0/student.safetensors", root)


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A committed copy whose stages take no time, with the grid of the preset `bluemarble`."""
    made = with_environment(Project(tmp_path_factory.mktemp("stub"), stub=True))
    made.edit("grid.seed", [0])
    made("git", "add", "--all")
    made("git", "commit", "--quiet", "--message", "start")
    return made


@pytest.mark.parametrize("commands", of_page(RUN))
def test_of_the_program(commands: list[Command], finished: Project, spawner: Spawner) -> None:
    presets.use("tiny", ROOT / "presets", finished.root / "params.yaml")
    for command in commands:
        words = shlex.split(command.bare)
        if words[:3] == ["python", "-m", "dualteacher"] and "\n" not in command.text:
            spawner(finished.root, words[3:])
        else:
            finished("bash", "-euo", "pipefail", "-c", command.text)
    for block in pages.blocks():
        if block.page == commands[0].page and block.language == "python":
            finished("python", "-c", block.text)


@pytest.mark.parametrize("commands", of_page(STUB))
def test_of_the_engines(commands: list[Command], stub: Project) -> None:
    stub("git", "checkout", "--quiet", "--force", "HEAD")
    for command in commands:
        done = stub("bash", "-euo", "pipefail", "-c", command.text)
        if command.bare == "make plan":
            assert "train" in done.stdout and "report" in done.stdout and "warmup" not in done.stdout, done.stdout


def test_the_files_are_those_of_the_reference(finished: Project) -> None:
    """docs/reference/files.md: names and types of every table and description, and no file without an entry."""
    from tests.docs import formats

    formats.check(finished.root)
