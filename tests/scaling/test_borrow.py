"""A copy that DVC makes for an experiment finds the project's archives."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualteacher.data.fetch import manifest

RAW = Path("data/toy/raw")


@pytest.fixture
def project(tmp_path) -> Path:
    files = {"images.zip": "pixels", "lists/train.txt": "names", "manifest.json": "{}"}
    files |= {".fetch-1/masks.zip": "half", "masks.zip.part": "half"}
    for name, content in files.items():
        (tmp_path / RAW / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / RAW / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize("place", [".dvc/tmp/exps/tmpx1", ".dvc/tmp/exps/standalone/tmpx1"])
def test_archives_are_linked_and_what_the_copy_has_stays(project, monkeypatch, place):
    (project / place / RAW).mkdir(parents=True)
    (project / place / RAW / "manifest.json").write_text("its own")
    monkeypatch.chdir(project / place)
    manifest.borrow(RAW)
    found = {str(path.relative_to(RAW)): path.read_text() for path in RAW.rglob("*") if path.is_file()}
    assert found == {"images.zip": "pixels", "lists/train.txt": "names", "manifest.json": "its own"}
    assert (RAW / "images.zip").samefile(project / RAW / "images.zip"), "no second copy on the disk"


def test_without_archives_there_or_outside_of_such_a_copy_nothing_happens(project, monkeypatch):
    for place in (".dvc/tmp/exps/tmpx1", "elsewhere"):
        (project / place).mkdir(parents=True)
        monkeypatch.chdir(project / place)
        manifest.borrow(Path("data/other/raw"))
        assert list(Path().iterdir()) == []
    manifest.borrow(RAW)
    assert list(Path().iterdir()) == []
