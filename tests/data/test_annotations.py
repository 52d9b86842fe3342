"""Polygon annotations of labelling tools become masks with known pixels, through `init` to a passing check-data."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pictures import encoded, photo, put
from PIL import Image
from typer.testing import CliRunner

from dualteacher import cli, settings
from dualteacher.data.formats.annotations import rasterise, run_lengths
from dualteacher.data.formats.annotations.shapes import Shape, Wrong
from dualteacher.system.errors import UserError
from dualteacher.workflow import engines, presets

ROOT = Path(__file__).parents[2]
SIZE = (20, 31)
LEAF = [4.0, 2.0, 12.0, 2.0, 12.0, 8.0, 4.0, 8.0]  # columns 4…11, rows 2…7
STEM = [8.0, 4.0, 20.0, 4.0, 20.0, 6.0, 8.0, 6.0]  # columns 8…19, rows 4…5, over the leaf: it is smaller


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    shutil.copytree(ROOT / "presets", root / "presets")
    (root / "params.yaml").write_text(presets.text("bluemarble", root / "presets"), encoding="utf-8")
    monkeypatch.chdir(root)
    monkeypatch.setattr(engines, "gpus", lambda device: 0)
    return root


def expected() -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[2:8, 4:12] = 1
    mask[4:6, 8:20] = 2
    return mask


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli.app, [*words])
    assert done.exit_code == code, done.output
    return done.stdout


def made(folder: Path) -> tuple[settings.Folder, str]:
    """(settings, what `init` said), after a check-data that found no error."""
    told = run("init", str(folder), "--force")
    (dataset,) = settings.load().datasets.values()
    assert isinstance(dataset, settings.Folder)
    run("check-data")
    return dataset, told


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        CliRunner().invoke(cli.app, ["init", str(folder)], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    assert not list(folder.glob("masks-from-*"))
    return str(caught.value)


def values(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def names(dataset: settings.Folder) -> list[tuple[str, Any]]:
    return [(entry.name, entry.value) for entry in dataset.classes]


def coco(images: Sequence[str], segmentations: Sequence[tuple[int, Any]], shapes_of: int | None = None) -> bytes:
    """A COCO file in which each of the first `shapes_of` images has all the segmentations (category, segmentation)."""
    listed = [{"id": 10 + i, "file_name": name, "height": 20, "width": 31} for i, name in enumerate(images)]
    entries = [
        {"id": 0, "image_id": image["id"], "category_id": category, "segmentation": segmentation, "bbox": [0, 0, 1, 1]}
        for image in listed[:shapes_of]
        for category, segmentation in segmentations
    ]
    categories = [{"id": 0, "name": "objects"}, {"id": 1, "name": "leaf"}, {"id": 2, "name": "stem"}]
    return json.dumps({"images": listed, "annotations": entries, "categories": categories}).encode()


def photos(folder: Path, where: str, number: int) -> list[str]:
    for i in range(number):
        put(folder / where / f"{i}.png", photo(hash_of(where) + i, *SIZE))
    return [f"{i}.png" for i in range(number)]


def hash_of(text: str) -> int:
    return sum(map(ord, text)) * 100


def test_coco() -> None:
    folder = Path("own_data/mine")
    listed = photos(folder, "photos", 6)
    put(folder / "instances.json", coco(listed[:4], [(2, [STEM]), (1, [LEAF])], shapes_of=3))
    dataset, told = made(folder)
    assert names(dataset) == [("background", 0), ("leaf", 1), ("stem", 2)]
    for name in listed[:3]:
        np.testing.assert_array_equal(values(folder / "masks-from-coco/photos" / name), expected())
    assert not values(folder / "masks-from-coco/photos/3.png").any(), "listed without shapes"
    assert not (folder / "masks-from-coco/photos/4.png").exists(), "not listed"
    for part in (
        "COCO JSON (instances.json), 6 shapes in 3 images, rasterised into masks-from-coco",
        "overlaps: smaller areas over larger ones",
        "images listed without shapes: 1, taken as background only, for example photos/3.png",
        "left out: objects",
    ):
        assert part in told
    record = json.loads((folder / "masks-from-coco/rasterised.json").read_text())
    assert (record["images"], record["shapes"]) == (4, 6) and len(record["sources"]["instances.json"]) == 64


def test_coco_as_roboflow_writes_it() -> None:
    folder = Path("own_data/mine")
    for split, number in (("train", 4), ("valid", 2), ("test", 1)):
        listed = photos(folder, split, number)  # the same names in every split
        put(folder / split / "_annotations.coco.json", coco(listed, [(1, [LEAF]), (2, [STEM])]))
    dataset, told = made(folder)
    assert (dataset.images, dataset.masks) == ("train", "masks-from-coco/train")
    assert (dataset.validation.images, dataset.validation.masks) == ("valid", "masks-from-coco/valid")
    assert "training: 4 images with masks" in told and "validation: 2 images (valid)" in told
    np.testing.assert_array_equal(values(folder / "masks-from-coco/valid/0.png"), expected())


def test_yolo() -> None:
    folder = Path("own_data/mine")
    put(folder / "data.yaml", yaml.safe_dump({"names": ["leaf", "stem"], "nc": 2}).encode())
    listed = photos(folder, "images/train", 4)
    photos(folder, "images/val", 2)
    shares = [(np.array(corners).reshape(-1, 2) / [31, 20]).ravel().tolist() for corners in (LEAF, STEM)]
    line = [" ".join(map(str, [number, *values])) for number, values in enumerate(shares)]
    for split, numbers in (("train", range(3)), ("val", range(2))):
        for i in numbers:
            put(folder / f"labels/{split}/{i}.txt", "\n".join(line[::-1]).encode())
    put(folder / "labels/train/3.txt", b"")
    dataset, told = made(folder)
    assert names(dataset) == [("background", 0), ("leaf", 1), ("stem", 2)]
    assert (dataset.masks, dataset.validation.masks) == ("masks-from-yolo/images/train", "masks-from-yolo/images/val")
    for name in listed[:3]:
        np.testing.assert_array_equal(values(folder / "masks-from-yolo/images/train" / name), expected())
    assert not values(folder / "masks-from-yolo/images/train/3.png").any() and "YOLO segmentation" in told


def labelme(image: str, shapes: Sequence[dict[str, Any]]) -> bytes:
    return json.dumps(
        {"version": "5.5.0", "imagePath": image, "imageHeight": 20, "imageWidth": 31, "shapes": list(shapes)}
    ).encode()


def test_labelme() -> None:
    folder = Path("own_data/mine")
    listed = photos(folder, ".", 5)
    stored = np.zeros((4, 5), np.uint8)
    stored[1:3, 1:4] = 1
    shapes = [
        {"label": "leaf", "shape_type": "polygon", "points": np.array(LEAF).reshape(-1, 2).tolist()},
        {"label": "stem", "shape_type": "rectangle", "points": [[20, 6], [8, 4]]},
        {"label": "leaf", "shape_type": "mask", "points": [[20, 10], [24, 13]],
         "mask": base64.b64encode(encoded(stored * 255, "PNG")).decode()},
        {"label": "tip", "shape_type": "point", "points": [[20, 10]]},
    ]  # fmt: skip
    for name in listed[:4]:
        put(folder / name.replace("png", "json"), labelme(name, shapes))
    dataset, told = made(folder)
    wanted = expected()
    wanted[11:13, 21:24] = 1
    assert names(dataset) == [("background", 0), ("leaf", 1), ("stem", 2)]
    np.testing.assert_array_equal(values(folder / "masks-from-labelme/0.png"), wanted)
    assert "not taken: shapes of type point (4)" in told and "training: 3 images with masks, 1 without" in told


def test_init_again_keeps_edited_masks_and_removes_what_is_no_longer_annotated() -> None:
    folder = Path("own_data/mine")
    listed = photos(folder, "photos", 5)
    put(folder / "a.json", coco(listed, [(1, [LEAF])]))
    made(folder)
    masks = folder / "masks-from-coco/photos"
    edited = np.ones(SIZE, np.uint8)
    put(masks / "0.png", edited)
    before = (masks / "1.png").stat().st_mtime_ns
    put(folder / "a.json", coco(listed[:4], [(1, [LEAF])]))
    _, told = made(folder)
    assert "edited masks in masks-from-coco: 1, kept" in told
    assert (values(masks / "0.png") == edited).all() and (masks / "1.png").stat().st_mtime_ns == before
    assert not (masks / "4.png").exists()


def test_classes_that_cover_everything_need_no_background() -> None:
    folder = Path("own_data/mine")
    listed = photos(folder, "photos", 4)
    halves = [(1, [[0, 0, 15, 0, 15, 20, 0, 20]]), (2, [[15, 0, 31, 0, 31, 20, 15, 20]])]
    put(folder / "a.json", coco(listed, halves))
    dataset, _ = made(folder)
    assert names(dataset) == [("leaf", 1), ("stem", 2)] and dataset.ignore == [0, 255]


WRONG = {
    "several formats": ({"a.json": coco(["0.png"], [(1, [LEAF])]), "0.txt": b"0 0 0 1 0 1 1"}, "several formats"),
    "not JSON": ({"a.json": b"{"}, "a.json: cannot be read as JSON"),
    "boxes only": ({"a.json": coco(["0.png"], [(1, [])])}, "no areas, only boxes without an outline (1)"),
    "an odd number of coordinates": ({"a.json": coco(["0.png"], [(1, [[1, 2, 3]])])}, "a polygon is not a list"),
    "run lengths of another size": (
        {"a.json": coco(["0.png"], [(1, {"size": [20, 31], "counts": [3, 4]})])}, "0.png: run lengths do not add up"),
    "no such image": ({"a.json": coco(["else.png"], [(1, [LEAF])])}, "(1, for example else.png) is in the folder"),
    "no category": ({"a.json": coco(["0.png"], [(7, [LEAF])])}, "category 7, which is not listed"),
    "twice": ({"a.json": coco(["0.png"], [(1, [LEAF])]), "b.json": coco(["0.png"], [(1, [LEAF])])}, "leave one"),
    "pixels in YOLO": ({"0.txt": b"0 3 4 10 4 10 9"}, "0.txt: not a valid YOLO segmentation file: line 1"),
    "another size": ({"0.json": labelme("0.png", [
        {"label": "a", "shape_type": "polygon", "points": [[0, 0], [9, 0], [9, 9]]}
    ]).replace(b"31", b"62")}, "annotated at 20×62 pixels, but the image has 20×31"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_refused_in_one_line(name: str) -> None:
    folder = Path("own_data/mine")
    photos(folder, ".", 3)
    contents, complaint = WRONG[name]
    for file, content in contents.items():
        put(folder / file, content)
    assert complaint in refused(folder)


def test_pixel_centres_and_holes() -> None:
    outer, hole = np.array([[1, 1], [7, 1], [7, 7], [1, 7]], float), np.array([[3, 3], [5, 3], [5, 5], [3, 5]], float)
    wanted = np.zeros((8, 9), bool)
    wanted[1:7, 1:7] = True
    wanted[3:5, 3:5] = False
    np.testing.assert_array_equal(rasterise.fill([outer, hole], (8, 9)), wanted)
    np.testing.assert_array_equal(rasterise.paint([Shape("a", [[outer, hole]])], (8, 9), {"a": 1}, True) == 1, wanted)
    triangle = np.array([[0, 0], [4, 0], [0, 4]], float)  # centres on the hypotenuse are outside: it is a right edge
    assert rasterise.fill([triangle], (4, 4)).sum(1).tolist() == [3, 2, 1, 0]
    rest = np.array([[4, 0], [4, 4], [0, 4]], float)
    assert (rasterise.fill([triangle], (4, 4)) ^ rasterise.fill([rest], (4, 4))).all(), "neighbours leave no gap"
    beyond = np.array([[-50, -9], [99, -9], [99, 2], [-50, 2]], float)
    assert rasterise.fill([beyond], (4, 4)).sum(1).tolist() == [4, 4, 0, 0]


def test_overlaps() -> None:
    big, small = (Shape(n, [[np.array(p).reshape(-1, 2)]]) for n, p in (("leaf", LEAF), ("stem", STEM)))
    of = {"leaf": 1, "stem": 2}
    np.testing.assert_array_equal(rasterise.paint([small, big], SIZE, of, smaller_on_top=True), expected())
    later = rasterise.paint([small, big], SIZE, of, smaller_on_top=False)
    assert (later[2:8, 4:12] == 1).all() and (later == 2).sum() == 16


def compressed(counts: Sequence[int]) -> str:
    """COCO's compressed counts, by their definition."""
    text = ""
    for i, count in enumerate(counts):
        rest = count - counts[i - 2] if i > 2 else count
        while True:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
            if not more:
                break
    return text


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_come_back(seed: int) -> None:
    mask = np.random.default_rng(seed).random((37, 53)) < [0.5, 0.02, 0.98, 0.0][seed]
    flat = np.concatenate([[False], mask.T.ravel()])
    borders = np.flatnonzero(np.diff(flat.astype(int)))
    counts = np.diff([0, *borders, mask.size]).tolist()
    np.testing.assert_array_equal(run_lengths.coco(counts, mask.shape), mask)
    np.testing.assert_array_equal(run_lengths.coco(compressed(counts), mask.shape), mask)
    for damaged in (compressed(counts)[:-1] + "o", "\n", [*counts, 1], [-1, 1]):
        with pytest.raises(Wrong, match="run lengths"):
            run_lengths.coco(damaged, mask.shape)
