"""Cityscapes from the user's zips, from a folder, and through the publishers' program."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from made_up import as_folder, as_zip, cityscapes_members, small_cityscapes, stripes

from dualteacher import settings
from dualteacher.data import official_lists
from dualteacher.data.pack import Pack
from dualteacher.data.sources import cityscapes
from dualteacher.stages import download, prepare
from dualteacher.system import files, paths
from dualteacher.system.errors import UserError
from dualteacher.workflow import presets

PLACE = paths.Dataset("cityscapes")
PRESETS = Path(__file__).parents[2] / "presets"


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_cityscapes(monkeypatch)


def params(images: str | None, masks: str | None) -> settings.Settings:
    raw: dict[str, Any] = presets.load("tiny", PRESETS)
    wanted = {"source": "cityscapes", "images": images, "masks": masks, "lists": False}
    raw["datasets"] = {"cityscapes": wanted}
    raw["grid"]["dataset"] = ["cityscapes"]
    return settings.parse(raw)


def run(images: str | None, masks: str | None) -> tuple[Pack, Pack]:
    loaded = params(images, masks)
    download.run(loaded, "cityscapes")
    prepare.run(loaded, "cityscapes")
    return Pack(PLACE.train), Pack(PLACE.val)


def zips(folder: Path) -> tuple[Path, Path]:
    images, masks = cityscapes_members()
    return as_zip(folder / cityscapes.IMAGES, images), as_zip(folder / cityscapes.MASKS, masks)


def test_zips_and_a_folder_give_the_same_packs(tmp_path: Path) -> None:
    images, masks = map(str, zips(tmp_path))
    train, val = run(images, masks)
    assert len(train) == 5 and len(val) == 2
    assert train.ids[0] == "aachen_000000_000019"
    mask = train.mask(0)
    assert mask is not None
    assert (mask == stripes([255, 0, 18, 255])).all()  # unlabelled, road, bicycle, caravan
    first = files.sha256(PLACE.train)
    both = as_folder(tmp_path / "both", {**cityscapes_members()[0], **cityscapes_members()[1]})
    run(str(both), str(both))
    assert files.sha256(PLACE.train) == first


def test_what_is_missing_is_told_by_city(tmp_path: Path) -> None:
    images, masks = cityscapes_members()
    del images["leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png"]
    folder = str(as_folder(tmp_path / "x", {**images, **masks}))
    with pytest.raises(UserError, match=r"4 images of leftImg8bit/train, expected 5 \(ulm 1 of 2\)"):
        run(folder, folder)


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    images, masks = cityscapes_members()
    del masks["gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png"]
    folder = str(as_folder(tmp_path / "x", {**images, **masks}))
    with pytest.raises(UserError, match="1 of 2 masks of gtFine/val missing: lindau_000001_000019"):
        run(folder, folder)


PROGRAM = """#!{python}
import sys, shutil, pathlib
arguments = sys.argv[1:]
target = pathlib.Path(arguments[arguments.index("--destination_path") + 1])
name = arguments[-1]
behaviour = pathlib.Path({behaviour!r}).read_text()
if behaviour == "login":
    input("Cityscapes username or email address: ")
if behaviour == "password":
    raise Exception("Bad credentials.")
if behaviour == "half":
    (target / name).write_bytes(b"half")
    raise ConnectionError("cut")
if behaviour == "sum":
    (target / name).write_bytes(b"wrong")
    raise Exception("MD5 sum of downloaded file does not match.")
assert "--resume" in arguments
shutil.copy(pathlib.Path({served!r}) / name, target / name)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A csDownload that does what the file says."""
    (tmp_path / "served").mkdir()
    zips(tmp_path / "served")
    behaviour = tmp_path / "behaviour"
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "csDownload"
    script.write_text(PROGRAM.format(python=sys.executable, behaviour=str(behaviour), served=str(tmp_path / "served")))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return behaviour


@pytest.mark.parametrize(
    ("behaviour", "complaint"),
    [
        ("login", "asks for a login: log in once with `csDownload -l`"),
        ("password", "name or password is wrong"),
        ("half", r"csDownload failed \(ConnectionError: cut\); run this again to resume"),
        ("sum", "damaged in transit"),
    ],
)
def test_each_failure_of_the_publishers_program_is_one_line(program: Path, behaviour: str, complaint: str) -> None:
    program.write_text(behaviour)
    with pytest.raises(UserError, match=f"{cityscapes.IMAGES}: .*{complaint}"):
        run(None, None)
    assert not (PLACE.raw / cityscapes.IMAGES).exists() and not PLACE.manifest.exists()
    program.write_text("well")
    assert len(run(None, None)[0]) == 5
    assert sorted(path.name for path in PLACE.raw.iterdir()) == sorted(
        [cityscapes.IMAGES, cityscapes.MASKS, "manifest.json"]
    )


def test_without_the_program_one_line_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"needs an account.*csDownload -l.*set their paths .*\(images, masks\)"):
        run(None, None)


def test_the_tables_of_the_real_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert {split: sum(cities.values()) for split, cities in cityscapes.CITIES.items()} == {"train": 2975, "val": 500}
    scored = [value for value in range(34) if cityscapes.ENCODING[value] != 255]
    assert len(scored) == 19 and [int(cityscapes.ENCODING[value]) for value in scored] == list(range(19))
    assert (cityscapes.ENCODING[34:255] == range(34, 255)).all()  # left for the checks to find
    for name in official_lists.names("cityscapes"):
        official = official_lists.official("cityscapes", name)
        assert official.labelled.lines + official.unlabelled.lines == 2975
