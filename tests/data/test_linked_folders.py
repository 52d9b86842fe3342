"""Links to folders are followed by all that lists a user's files, and loops of links end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pictures import described, fill, photo, put

from dualteacher import settings
from dualteacher.commands import init, links
from dualteacher.data.formats import folder_files
from dualteacher.data.sources.folder import Folder
from dualteacher.prediction import inputs
from dualteacher.stages import download
from dualteacher.system import paths, walk
from dualteacher.system.errors import UserError
from dualteacher.workflow import engines

ROOT = Path(__file__).parents[2]


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


def test_init_download_snakemake_and_predict_look_behind_links(linked: Path) -> None:
    def listed() -> set[str]:
        return set(json.loads(Folder(described(linked)).archives()[0].fetch(Path()).read_text()))

    found, told = init.describe(linked)
    assert (found["images"], found["masks"]) == ("images", "masks")
    assert any(line.startswith("links to folders: 2, for example images;") for line in told)
    watched = Path(engines.watch("own_data"))
    before, hashed = watched.read_bytes(), listed()
    assert len(hashed) == 10
    put(Path("disk/images/photo99.png"), photo(99))
    assert listed() - hashed == {"images/photo99.png"}
    assert engines.watch("own_data") == str(paths.OWN_DATA_LIST) and watched.read_bytes() != before
    assert "images/photo99" in {job.name for job in inputs.collect([linked], Path("out"))}


def test_init_lists_links_for_dvc_and_the_download_stage_names_those_that_are_not(
    linked: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(ROOT / "presets", "presets")
    init.run(linked, "mine", force=True, quick=True)
    loaded = settings.load()
    assert loaded.links == {"link_1": "own_data/mine/images", "link_2": "own_data/mine/masks"}
    links.run(loaded, "link_1")
    written = Path("own_data/.behind-links/link_1.txt")
    before = written.read_bytes()
    assert b"own_data/mine/images/" in before and b"masks" not in before
    put(Path("disk/images/photo99.png"), photo(99))
    links.run(loaded, "link_1")
    assert written.read_bytes() != before
    download.run(loaded, "mine")
    assert "a link to a folder" not in caplog.text
    (linked / "unlabelled").symlink_to(Path("disk/images").absolute())
    download.run(loaded, "mine")
    assert "own_data/mine/unlabelled: a link to a folder that is not under `links` in params.yaml" in caplog.text
    with pytest.raises(UserError, match=r"--link link_9: params\.yaml has no such entry"):
        links.run(loaded, "link_9")


def test_loops_end_and_broken_links_are_files(linked: Path) -> None:
    names = folder_files.image_files(linked)
    Path("disk/images/back").symlink_to(Path("own_data").absolute())
    (linked / "itself").symlink_to("itself")
    (linked / "around").symlink_to("..")
    found = [(parent / name).as_posix() for parent, _, inside in walk.walk(linked) for name in inside]
    assert len(found) == len(set(found)) and "own_data/mine/itself" in found
    assert {*names} <= {*folder_files.image_files(linked)}
    assert linked / "around" in walk.links(linked)
    depth = max(name.count("/") for name in found)
    assert depth <= 8, "no link is followed into a folder around it"


def test_a_folder_linked_twice_is_walked_twice(tmp_path: Path) -> None:
    put(tmp_path / "shared/a.png", photo(1))
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "images").symlink_to("../shared")
    assert folder_files.image_files(tmp_path) == ["shared/a.png", "train/images/a.png", "val/images/a.png"]
