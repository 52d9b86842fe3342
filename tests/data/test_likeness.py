"""Copies of one photo, and pictures that look the same, in training and in validation."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from pictures import described, encoded, mask, photo, put
from PIL import Image, ImageEnhance
from skimage import data
from typer.testing import CliRunner

from dualteacher import cli, settings
from dualteacher.data import inspection, likeness
from dualteacher.data.formats.folder_layout import arrange, scan
from dualteacher.data.sources.folder import Folder
from dualteacher.workflow import engines, presets

ROOT = Path(__file__).parents[2]
PICTURES = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
SIDE = 96


def crop(number: int) -> np.ndarray:
    """Another part of a picture for each number."""
    picture = PICTURES[number % len(PICTURES)]
    left = 40 * (number // len(PICTURES))
    return np.ascontiguousarray(picture[60 : 60 + SIDE, left : left + SIDE])


def warnings(folder: Path, kind: str, **changes: object) -> list[str]:
    wanted = described(folder, **changes)
    source = Folder(wanted)
    content = source.look()
    survey = inspection.survey_of(content, source.classes(), wanted)
    for split in ("val", "train"):
        for checked in inspection.run(content, split, len(source.classes()), "check"):
            survey.add(split, checked)
    survey.conclude()
    return [str(finding) for finding in survey.findings if finding.kind == kind]


def recompressed(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=40)))


@pytest.mark.parametrize(
    "change",
    [
        recompressed,
        lambda image: image.resize((61, 64)),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: ImageEnhance.Brightness(image).enhance(0.7),
        lambda image: image.crop((1, 0, SIDE, SIDE)),
    ],
)
def test_changed_copies_in_validation_are_named(tmp_path: Path, change) -> None:
    for i in range(8):
        put(tmp_path / f"images/{i}.png", crop(i))
        put(tmp_path / f"masks/{i}.png", mask(i, SIDE, SIDE))
    assert warnings(tmp_path, "alike") == []
    held_out = Folder(described(tmp_path)).look().entries("val")[0]
    altered = change(Image.open(tmp_path / held_out.image).convert("RGB"))
    put(tmp_path / "images/again.png", encoded(altered, "PNG"))
    assert warnings(tmp_path, "alike") == [
        f"images/again.png: looks like {held_out.image} in validation, which makes scores too good; put such images"
        " into one sub-folder and set `block: folder`"
    ]


def test_plain_pictures_are_not_alike() -> None:
    plain = [np.full((30, 40, 3), level, np.uint8) for level in (0, 90)]
    plain.append(np.random.default_rng(0).normal(90, 2, (900, 1200, 3)).astype(np.uint8))  # a grey wall
    assert [likeness.fingerprint(pixels) for pixels in plain] == [None, None, None]
    assert likeness.fingerprint(photo(1, 1, 1)) is None


def test_every_pair_is_compared_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = [likeness.fingerprint(photo(i)) for i in range(12)]
    known = [found for found in hashes if found is not None]
    assert len(known) == 12
    monkeypatch.setattr(likeness, "CHUNK", 5)
    assert list(likeness.pairs([known[i] for i in (3, 11, 4)], known[4:])) == [(1, 7), (2, 0)]
    assert list(likeness.pairs([], known)) == list(likeness.pairs(known, [])) == []


def copies(folder: Path) -> None:
    """Three copies of each of ten photos, as Roboflow exports them."""
    for i in range(10):
        for copy in range(3):
            name = f"p{i}_jpg.rf.{copy}{i}ab"
            put(folder / f"images/{name}.png", photo(10 * i + copy))
            put(folder / f"masks/{name}.png", mask(i))


def test_copies_of_a_photo_stay_together_with_block_stem(tmp_path: Path) -> None:
    copies(tmp_path)
    found = warnings(tmp_path, "copy")
    assert len(found) >= 2
    assert all("a copy of the same photo as images/p" in text and "set `block: stem`" in text for text in found)
    assert warnings(tmp_path, "copy", block="stem") == []
    wanted = described(tmp_path, block="stem")
    layout = arrange(scan(wanted), wanted)
    photos = [{likeness.original(entry.image_id) for entry in entries} for entries in (layout.train, layout.val)]
    assert not photos[0] & photos[1] and len(photos[0] | photos[1]) == 10
    assert len(layout.train) == 24 and len(layout.val) == 6, "a quarter of ten photos, three copies each"
    assert {entry.block for entry in layout.val} == photos[1]


def test_copies_in_a_validation_folder_of_their_own(tmp_path: Path) -> None:
    copies(tmp_path)
    put(tmp_path / "held/images/p3_jpg.rf.zz.png", photo(200))
    put(tmp_path / "held/masks/p3_jpg.rf.zz.png", mask(3))
    own = {"share": None, "images": "held/images", "masks": "held/masks"}
    found = warnings(tmp_path, "copy", validation=own)
    assert len(found) == 3
    assert "images/p3_jpg.rf.03ab.png: a copy of the same photo as held/images/p3_jpg.rf.zz.png in" in found[0]
    assert found[0].endswith("in validation; move one of them")


def test_init_keeps_copies_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    (tmp_path / "params.yaml").write_text(presets.text("bluemarble", tmp_path / "presets"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engines, "gpus", lambda device: 0)
    copies(Path("own_data/mine"))
    done = CliRunner().invoke(cli.app, ["init", "own_data/mine"], catch_exceptions=False)
    assert "copies: 30 images of 10 photos (.rf. in their names), `block: stem` keeps them together" in done.output
    dataset = settings.load().datasets["mine"]
    assert isinstance(dataset, settings.Folder) and dataset.block == "stem"
