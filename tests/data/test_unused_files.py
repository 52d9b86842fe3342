"""Whatever lies in a user's folder and is not used is counted and named by kind; what can be read is read."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from pictures import described, encoded, fill, photo, put
from PIL import Image, features

from dualteacher import settings
from dualteacher.commands import check_data, init
from dualteacher.data.formats import class_lists, file_kinds, folder_files, images
from dualteacher.data.sources.folder import Folder
from dualteacher.prediction import inputs
from dualteacher.system.errors import UserError

LOST = {
    "a.ARW": "RAW photos",
    "a.psd": "images of other formats",
    "a.nii.gz": "images of other formats",
    "a.mov": "videos",
    "a.csv": "other files",
    "ImageSets/Segmentation/val.txt": file_kinds.LISTS,
    "ImageSets/Segmentation/train.txt": file_kinds.LISTS,
    "no_ending": "files without an ending",
    "Thumbs.db": file_kinds.SYSTEM,
    "._a.jpg": file_kinds.SYSTEM,
    "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg": file_kinds.SYSTEM,
    ".thumbs/a.jpg": file_kinds.SYSTEM,
    "__MACOSX/a.jpg": file_kinds.SYSTEM,
    "a.bmp": "images",
}


def test_unused_files_by_kind(tmp_path: Path) -> None:
    for name in LOST:
        put(tmp_path / name, b"x")
    put(tmp_path / "used.png", photo(1))
    put(tmp_path / "classes.txt", b"a\nb\n")
    found = folder_files.unused(tmp_path, ["used.png"])
    counts = {kind: len(names) for kind, names in found.items()}
    assert counts == {kind: list(LOST.values()).count(kind) for kind in LOST.values()}
    assert next(iter(found)) == "images" and list(found)[-1] == file_kinds.SYSTEM
    assert folder_files.image_files(tmp_path) == ["a.bmp", "used.png"]


def test_a_line_counts_names_and_advises() -> None:
    (line,) = file_kinds.described({"RAW photos": ["x/a.ARW", "b.nef"]})
    assert line == "RAW photos: 2 (.arw, .nef; for example x/a.ARW); develop them to TIFF or PNG"
    (line,) = file_kinds.described({file_kinds.LISTS: ["ImageSets/Segmentation/val.txt"]})
    assert line.startswith("lists of a split: 1 (.txt;") and line.endswith("in params.yaml to keep the split")
    assert file_kinds.described({"other files": ["README"]}) == ["other files: 1 (for example README)"]


READABLE = [
    ("jfif", "JPEG"),
    ("jpe", "JPEG"),
    ("GIF", "GIF"),
    pytest.param("jp2", "JPEG2000", marks=pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow")),
    pytest.param("avif", "AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="this Pillow")),
    pytest.param("heic", "HEIF", marks=pytest.mark.skipif(not file_kinds.HEIF_READER, reason="no pillow-heif")),
]


@pytest.mark.parametrize(("ending", "kind"), READABLE)
def test_photos_of_further_formats_are_used(tmp_path: Path, ending: str, kind: str) -> None:
    fill(tmp_path, labelled=4, without=0)
    smooth = np.linspace(0, 255, 31).astype(np.uint8)[None, :, None].repeat(20, 0).repeat(3, 2)
    put(tmp_path / f"images/further.{ending}", encoded(smooth, kind))
    content = Folder(described(tmp_path)).look()
    (checked,) = [job() for job in content.jobs("train") if job.args[0].image == f"images/further.{ending}"]  # type: ignore[attr-defined]
    assert checked.sample is not None and checked.sample.mask is None and not checked.findings
    pixels = images.read_pixels((tmp_path / f"images/further.{ending}").read_bytes())
    assert pixels.shape == (20, 31, 3) and np.abs(pixels.astype(int) - smooth).mean() < 4
    assert "further" in {job.name for job in inputs.collect([tmp_path / "images"], tmp_path / "out")}


def test_the_first_picture_of_a_gif_is_read() -> None:
    first = Image.fromarray(np.full((8, 8), 3, np.uint8))
    data = encoded(first, "GIF", save_all=True, append_images=[Image.fromarray(np.full((8, 8), 9, np.uint8))])
    picture = images.read_image(data)
    assert (picture.pixels == 3).all() and picture.notes == ("holds 2 pictures: only the first is read",)


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is not None, reason="pillow-heif is installed")
def test_heic_without_its_reader_is_named_with_the_way_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    fill(tmp_path, labelled=4, without=0)
    for i in range(3):
        put(tmp_path / f"images/e{i}.HEIC", heic)
    (line,) = Folder(described(tmp_path)).look().unused()
    assert line.startswith("HEIC images: 3 (.heic; for example images/e0.HEIC); `pip install pillow-heif`")
    with caplog.at_level("INFO"):
        inputs.collect([tmp_path / "images"], tmp_path / "out")
    assert line.replace("images/e0", "e0") in caplog.text
    with pytest.raises(images.Unreadable, match="HEIC image: `pip install pillow-heif`"):
        images.read_image(heic)


def test_masks_and_overlays_of_the_photos_are_not_predicted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jpg", "b.jpg", "masks/a.png", "overlays/a.jpg", "b_mask.png", "SegmentationClass/b.png", "c.gif"):
        put(tmp_path / "photos" / name, photo(1))
    with caplog.at_level("INFO"):
        found = inputs.collect([tmp_path / "photos"], tmp_path / "out")
    assert [job.name for job in found] == ["a", "b", "c"]
    assert (
        "not predicted: 4 files that look like masks or overlays of the photos, for example SegmentationClass/b.png"
        in caplog.text
    )
    assert [job.name for job in inputs.collect([tmp_path / "photos/masks"], tmp_path / "out")] == ["a"], "as asked for"


def test_masks_and_overlays_are_no_photos_to_train_on(tmp_path: Path) -> None:
    folder = fill(tmp_path, labelled=4, without=2)
    dataset = described(folder)
    before = Folder(dataset).look().ids("train")
    for name in ("images/overlays/photo00.jpg", "images/photo05_mask.png", "images/@eaDir/photo05.png/x.png"):
        put(folder / name, photo(1))
    content = Folder(dataset).look()
    assert content.ids("train") == before
    assert [line.partition(" (")[0] for line in content.unused()] == [
        "images: 1",
        "masks, overlays and the like: 1",
        "thumbnails and system files: 1",
    ]


@pytest.mark.parametrize("text", ["a, b\nx, cat\n", "value\n1\n"])
def test_a_list_of_classes_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    put(tmp_path / "_classes.csv", text.encode())
    with pytest.raises(UserError, match=r"_classes\.csv: cannot be read as a list of classes"):
        class_lists.read(tmp_path)


def test_another_dataset_json_is_no_list_of_classes(tmp_path: Path) -> None:
    put(tmp_path / "dataset.json", b'{"images": [], "labels": {"cat": "fluffy"}}')
    assert class_lists.read(tmp_path) == ([], "")


def test_init_and_check_data_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = fill(tmp_path / "mine")
    put(folder / "images/a.nef", b"x")
    dataset, told = init.describe(folder)
    loaded = settings.Settings.model_construct(datasets={"mine": init.valid(folder, dataset)})
    assert check_data.run(loaded, "mine")
    said = capsys.readouterr().out
    line = "not used: RAW photos: 1 (.nef; for example images/a.nef); develop them to TIFF or PNG"
    assert line in told and line in said
