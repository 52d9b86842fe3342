"""The real pipeline on the tiny preset: both engines make the same files from what they declare."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Project

from dualteacher.system import paths
from dualteacher.workflow import presets, sources

pytestmark = pytest.mark.slow

WITNESS = Path(__file__).with_name("witness")
NOT_MADE = ("cost.json", "README.md")  # the former says how long it took


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Project:
    """A copy with the tiny preset, and the archives if the project has them already."""
    made = Project(tmp_path_factory.mktemp("tiny"), stub=False)
    presets.use("tiny", made.root / "presets", made.root / "params.yaml")
    made.edit("grid.method", ["supervised", "dual_teacher"])
    for raw in (ROOT / paths.DATA).glob("*/raw"):
        ignore = shutil.ignore_patterns("manifest.json")
        shutil.copytree(raw, made.root / raw.relative_to(ROOT), ignore=ignore, dirs_exist_ok=True)
    return made


@pytest.fixture(scope="module")
def told(tiny, tmp_path_factory) -> dict[str, dict]:
    """What each command of a run by Snakemake loaded and opened."""
    notes = tmp_path_factory.mktemp("witness")
    tiny.environment = {"PYTHONPATH": str(WITNESS), "WITNESS": str(notes)}
    tiny("snakemake", "--quiet", "all")
    tiny.environment = {}
    return {note["command"]: note for note in (json.loads(path.read_text()) for path in notes.glob("*.json"))}


def content(made: Project) -> dict[str, str]:
    """Hash by path of every file that is a function of settings and sources alone."""
    found = [path for folder in ("data", "results/runs") for path in (made.root / folder).rglob("*")]
    found.append(made.root / paths.SUMMARY)
    return {
        str(path.relative_to(made.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.is_file() and "raw" not in path.parts and path.name not in NOT_MADE
    }


def test_a_stage_loads_only_sources_and_opens_only_files_that_are_declared(tiny, told):
    jobs = json.loads(tiny(sys.executable, str(Path(__file__).with_name("jobs.py"))).stdout)["snakemake"]
    assert told.keys() == jobs.keys()
    checking = set(sources.reach("dualteacher.settings.reader", tiny.root))  # loaded to check params.yaml, by all
    for command, note in told.items():
        inputs, outputs = set(jobs[command]["inputs"]), set(jobs[command]["outputs"])
        bare = {path for path in note["modules"] if sources.is_only_docstring(tiny.root / path)}
        plumbing = {path for path in note["modules"] if sources.is_plumbing(path)}
        assert set(note["modules"]) - bare - plumbing - checking - inputs == set(), command
        # Archives are named in the manifest; a name that begins with a dot is an output being written.
        opened = {path for path in note["opened"] if "/raw/" not in path and not Path(path).name.startswith(".")}
        assert opened - inputs - outputs == set(), command


def test_nothing_is_left_to_do(tiny, told):
    assert "Nothing to be done" in "".join((done := tiny("snakemake", "--dry-run")).stdout + done.stderr)


def test_dvc_makes_the_same_files(tiny, told):
    by_snakemake = content(tiny)
    assert len(by_snakemake) > 20
    for name in by_snakemake:
        (tiny.root / name).unlink()
    tiny("dvc", "repro", "--quiet")
    assert content(tiny) == by_snakemake
    tiny("dvc", "status", "--quiet")
