"""What a person meets first: the list of targets, switching presets, and one line where something is missing."""

from __future__ import annotations

import pytest
from conftest import ROOT

from dualteacher.workflow import presets

pytestmark = pytest.mark.slow


def test_make_alone_lists_every_target(project):
    listed = project()("make").stdout
    for target in ("run", "test", "check", "repro", "use", "exp-show", "adopt-dvc", "adopt-snakemake", "clean"):
        assert f"\n  {target} " in listed


def test_use_replaces_the_settings_and_keeps_the_former(project):
    made = project(stub=False)
    before = (made.root / "params.yaml").read_text()
    made("make", "use", "PRESET=tiny", "READY=Makefile")
    assert (made.root / "params.yaml").read_text() == presets.text("tiny", ROOT / "presets")
    assert (made.root / "params.yaml.bak").read_text() == before


@pytest.mark.parametrize("name", ["", "nosuch"])
def test_use_lists_the_presets_when_it_does_not_know_the_name(project, name):
    done = project(stub=False)("make", "use", f"PRESET={name}", "READY=Makefile", code=2)
    assert "error:" in done.stderr and "bluemarble" in done.stderr and "tiny" in done.stderr


def test_an_invalid_preset_changes_nothing(project):
    made = project(stub=False)
    before = (made.root / "params.yaml").read_text()
    (made.root / "presets" / "broken.yaml").write_text("grid: {sed: [1]}\n")
    done = made("make", "use", "PRESET=broken", "READY=Makefile", code=2)
    assert "presets/broken.yaml" in done.stderr and (made.root / "params.yaml").read_text() == before


def test_a_missing_python_is_one_line(project):
    done = project()("make", "setup", "PYTHON=", code=2)
    assert done.stderr.startswith("error: no Python 3.11") and "Traceback" not in done.stderr
