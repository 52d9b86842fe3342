"""Links to folders are followed by all that lists a user's files, and loops of links end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pictures import described, fill, photo, put

from dualteacher.commands import init
from dualteacher.data.formats import folder_files
from dualteacher.data.sources.folder import Folder
from dualteacher.prediction import inputs
from dualteacher.system import paths
from dualteacher.system.walk import links, walk
from dualteacher.workflow import engines


@pytest.fixture
def linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """own_data/mine, whose images/ and masks/ are links to another disk."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "disk", labelled=4, without=2)
    folder = Path("own_data/mine")
    folder.mkdir(parents=True)
    for name in ("images", "masks"):
        (folder / name).symlink_to(tmp_path / "disk" / name)
    return folder


def test_init_download_snakemake_and_predict_look_behind_links(linked: Path, caplog: pytest.LogCaptureFixture) -> None:
    def listed() -> set[str]:
        return set(json.loads(Folder(described(linked)).archives()[0].fetch(Path()).read_text()))

    settings, told = init.describe(linked)
    assert (settings["images"], settings["masks"]) == ("images", "masks")
    assert any(line.startswith("links to folders: 2, for example images;") for line in told)
    watched = Path(engines.watch("own_data"))
    before, hashed = watched.read_bytes(), listed()
    assert len(hashed) == 10
    assert "own_data/mine/images (and 1 more): a link to a folder: Snakemake follows it" in caplog.text
    assert "`dvc repro` does not notice changes behind it and reruns nothing" in caplog.text
    put(Path("disk/images/photo99.png"), photo(99))
    assert listed() - hashed == {"images/photo99.png"}
    assert engines.watch("own_data") == str(paths.OWN_DATA_LIST) and watched.read_bytes() != before
    assert "images/photo99" in {job.name for job in inputs.collect([linked], Path("out"))}


def test_loops_end_and_broken_links_are_files(linked: Path) -> None:
    names = folder_files.image_files(linked)
    Path("disk/images/back").symlink_to(Path("own_data").absolute())
    (linked / "itself").symlink_to("itself")
    (linked / "around").symlink_to("..")
    found = [(parent / name).as_posix() for parent, _, inside in walk(linked) for name in inside]
    assert len(found) == len(set(found)) and "own_data/mine/itself" in found
    assert {*names} <= {*folder_files.image_files(linked)}
    assert linked / "around" in links(linked)
    depth = max(name.count("/") for name in found)
    assert depth <= 8, "no link is followed into a folder around it"


def test_a_folder_linked_twice_is_walked_twice(tmp_path: Path) -> None:
    put(tmp_path / "shared/a.png", photo(1))
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "images").symlink_to("../shared")
    assert folder_files.image_files(tmp_path) == ["shared/a.png", "train/images/a.png", "val/images/a.png"]
