"""`dualteacher new` writes a project that runs with the installed package, where there is no clone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, copy_project

from dualteacher.commands import new
from dualteacher.system.errors import UserError
from dualteacher.workflow import contracts, presets, skeleton, stamps


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "project"
    new.run(folder, "tiny")
    return folder


@pytest.fixture
def made(written, tmp_path, monkeypatch) -> Path:
    """A project of one's own, as the current folder."""
    folder = shutil.copytree(written, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
def test_the_engines_find_their_files(made):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    theirs = (
        "Snakefile",
        "workflow/Snakefile",
        "workflow/rules",
        "workflow/captions",
        "workflow/schemas",
        ".dvc",
        "presets",
        "profiles",
    )
    generated = {"params.yaml", "workflow/code.yaml", "dvc.yaml"}
    assert {name for name in listed if name.startswith(theirs)} | generated <= {
        path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()
    }
    assert (made / "params.yaml").read_text() == presets.text("tiny", ROOT / "presets")


@pytest.mark.slow
def test_every_stage_depends_on_the_stamp_of_its_sources(made):
    code = yaml.safe_load((made / "workflow/code.yaml").read_text())
    assert list(code) == list(contracts.STAGES)
    stages = yaml.safe_load((made / "dvc.yaml").read_text())["stages"]
    for stage, (stamp,) in code.items():
        assert f"dualteacher/stages/{stage}.py" in (made / stamp).read_text()
        assert stamp in stages[stage]["deps"] and not any(
            dep.startswith("dualteacher/") for dep in stages[stage]["deps"]
        )
    assert stamps.of_method("dual_teacher") in stages["train"]["deps"]
    assert stamps.method_file("dual_teacher") == stamps.of_method("dual_teacher")


@pytest.mark.slow
def test_another_version_of_the_package_is_refused_until_update(made, capsys):
    stamps.check()
    stamp = made / stamps.of_stage("train")
    current = stamp.read_text()
    stamp.write_text("0" * 64 + current[64:])
    with pytest.raises(
        UserError, match=r"is another in the installed dualteacher .* run `python -m dualteacher new --update"
    ):
        stamps.check()
    (made / "params.yaml").write_text("mine: 1\n")
    (made / "workflow/Snakefile").write_text("old\n")
    new.update(made)
    assert (
        stamp.read_text() == current
        and (made / "workflow/Snakefile").read_text() == (ROOT / "workflow/Snakefile").read_text()
    )
    assert (made / "params.yaml").read_text() == "mine: 1\n"
    assert capsys.readouterr().out.count(": updated") == 2
    stamps.check()


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UserError, match=r"not empty \(it contains notes\)"):
        new.run(tmp_path, "tiny")
    with pytest.raises(UserError, match="a file"):
        new.run(tmp_path / "notes", "tiny")
    with pytest.raises(UserError, match="nosuch"):
        new.run(tmp_path / "new", "nosuch")
    with pytest.raises(UserError, match="no project"):
        new.update(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "notes"]


def test_a_package_without_the_files_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(skeleton, "__file__", str(tmp_path / "site" / "dualteacher" / "workflow" / "skeleton.py"))
    with pytest.raises(UserError, match="install the wheel again"):
        new.run(tmp_path / "new", "tiny")
    assert not (tmp_path / "new").exists()


def test_nothing_of_the_skeleton_is_a_users_own(tmp_path):
    """Folders that fill with data ship their README only."""
    copy_project(tmp_path)
    before = skeleton.files(tmp_path)
    for name in ("data/x/train.arrow", ".dvc/cache/x", ".dvc/config.local", "results/summary.json", "workflow/x.sif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert skeleton.files(tmp_path) == before
