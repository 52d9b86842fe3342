"""Polygon annotations of labelling tools become masks with known pixels, through `init` to a passing check-data."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from own_project import project  # noqa: F401
from pictures import encoded, fill, photo, put
from PIL import Image
from typer.testing import CliRunner

from dualteacher import cli, settings
from dualteacher.data.formats.annotations import rasterise, run_lengths
from dualteacher.data.formats.annotations.shapes import Shape, Wrong, rectangle, turned
from dualteacher.stages import download
from dualteacher.system import console
from dualteacher.system.errors import UserError
from dualteacher.workflow import engines

ROOT = Path(__file__).parents[2]
SIZE = (20, 31)
LEAF = [4.0, 2.0, 12.0, 2.0, 12.0, 8.0, 4.0, 8.0]  # columns 4…11, rows 2…7
STEM = [8.0, 4.0, 20.0, 4.0, 20.0, 6.0, 8.0, 6.0]  # columns 8…19, rows 4…5, over the leaf: it is smaller


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


def test_names_of_other_spellings() -> None:
    folder = Path("own_data/mine")
    photos(folder, "photos", 3)
    put(folder / "photos/u\u0308ber.png", photo(9, *SIZE))  # as macOS stores it
    put(folder / "photos/IMG_5.png", photo(10, *SIZE))
    listed = ["C:\\pictures\\0.png", "photos/1.png", "\u00fcber.png", "img_5.JPG", "gone.png"]
    put(folder / "a.json", coco(listed, [(1, [LEAF])]))
    _, told = made(folder)
    assert "annotated, but not in the folder: 1 images, for example gone.png" in told
    masks = folder / "masks-from-coco/photos"
    found = sorted(path.name for path in masks.iterdir())
    assert found == ["0.png", "1.png", "IMG_5.png", "u\u0308ber.png"]


def test_masks_of_the_users_own_come_first() -> None:
    folder = fill(Path("own_data/mine"))
    put(folder / "a.json", coco(["photo00.png"], [(1, [LEAF])]))
    dataset, told = made(folder)
    assert dataset.masks == "masks" and "a.json" in told and not list(folder.glob("masks-from-*"))


def test_a_turned_photo_is_annotated_upright() -> None:
    folder = Path("own_data/mine")
    for i in range(3):  # stored 31 high and 20 wide, shown 20 high and 31 wide
        put(folder / f"images/{i}.jpg", encoded(photo(i, 31, 20), "JPEG", orientation=6))
        shares = " ".join(str(v) for v in (np.array(LEAF).reshape(-1, 2) / [31, 20]).ravel())
        put(folder / f"labels/{i}.txt", f"0 {shares}".encode())
    made(folder)
    wanted = np.zeros(SIZE, np.uint8)
    wanted[2:8, 4:12] = 1
    np.testing.assert_array_equal(values(folder / "masks-from-yolo/images/1.png"), wanted)


def test_coco_in_its_own_layout() -> None:
    folder = Path("own_data/mine")
    for split, number in (("train2017", 4), ("val2017", 2)):
        listed = photos(folder, split, number)  # the same names in both
        put(folder / f"annotations/instances_{split}.json", coco(listed, [(1, [LEAF]), (2, [STEM])]))
    dataset, told = made(folder)
    assert (dataset.images, dataset.validation.masks) == ("train2017", "masks-from-coco/val2017")
    assert "training: 4 images with masks, 0 without" in told and "validation: 2 images (val2017)" in told


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
        stated = "..\\pictures\\IMG_7.png" if name == "1.png" else name  # renamed since, on Windows
        put(folder / name.replace("png", "json"), labelme(stated, shapes))
    dataset, told = made(folder)
    wanted = expected()
    wanted[11:13, 21:24] = 1
    assert names(dataset) == [("background", 0), ("leaf", 1), ("stem", 2)]
    np.testing.assert_array_equal(values(folder / "masks-from-labelme/0.png"), wanted)
    assert "not taken: shapes of type point (4)" in told and "training: 3 images with masks, 1 without" in told


def cvat(images: str) -> bytes:
    labels = "".join(
        f"<label><name>{name}</name><color>{color}</color></label>"
        for name, color in (("stem", "#00ff10"), ("leaf", "#fa3253"))
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><job><labels>{labels}</labels>'
        f"</job></meta>{images}</annotations>"
    ).encode()


def pairs(corners: Sequence[float]) -> list[list[float]]:
    return np.array(corners).reshape(-1, 2).tolist()


def test_cvat() -> None:
    folder = Path("own_data/mine")
    photos(folder, "images", 5)
    points = ";".join(f"{x},{y}" for x, y in pairs(LEAF))
    shapes = (
        '<box label="stem" xtl="8.0" ytl="4.0" xbr="20.0" ybr="6.0" z_order="1"></box>'  # drawn last
        f'<polygon label="leaf" points="{points}" z_order="0"></polygon>'
        '<mask label="leaf" rle="1, 2, 3" left="20" top="10" width="3" height="2" z_order="0"></mask>'
        '<polyline label="leaf" points="0,0;4,4" z_order="0"></polyline><tag label="sunny"></tag>'
    )
    images = "".join(f'<image id="{i}" name="{i}.png" width="31" height="20">{shapes}</image>' for i in range(3))
    put(folder / "annotations.xml", cvat(f'{images}<image id="3" name="3.png" width="31" height="20"></image>'))
    dataset, told = made(folder)
    assert [(entry.name, entry.color) for entry in dataset.classes[1:]] == [
        ("stem", [0, 255, 16]),
        ("leaf", [250, 50, 83]),
    ]
    mask = values(folder / "masks-from-cvat/images/0.png")
    wanted = np.array([0, 2, 1], np.uint8)[expected()]  # CVAT lists the stem first
    wanted[10, 21:23] = 2  # run lengths by rows: 0 1 1 / 0 0 0
    np.testing.assert_array_equal(mask, wanted)
    for part in (
        "not taken: shapes of type polyline (3)",
        "rectangles taken as areas: 3",
        "2 images with masks, 2 without",
    ):
        assert part in told


@pytest.mark.parametrize("flavour", ["Roboflow", "LabelMe"])
def test_voc_xml_with_polygons(flavour: str) -> None:
    folder = Path("own_data/mine")
    photos(folder, "images", 5)

    def polygon(corners: Sequence[float]) -> str:
        points = enumerate(pairs(corners), start=1)
        if flavour == "LabelMe":
            return "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for _, (x, y) in points)
        return "".join(f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in points)

    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    objects = "".join(
        f"<object><name>{name}</name><deleted>{int(name == 'gone')}</deleted>{box}"
        + (f"<polygon>{polygon(corners)}</polygon></object>" if corners else "</object>")
        for name, corners in (("leaf", LEAF), ("stem", STEM), ("box", []), ("gone", LEAF))
    )
    for i in range(3):
        put(folder / f"images/{i}.xml", f"<annotation><filename>{i}.png</filename>{objects}</annotation>".encode())
    dataset, told = made(folder)
    assert [entry.name for entry in dataset.classes] == ["background", "leaf", "stem"]
    np.testing.assert_array_equal(values(folder / "masks-from-voc-xml/images/0.png"), expected())
    assert "not taken: boxes (3)" in told and "2 images with masks, 2 without" in told


def brush(mask: np.ndarray) -> list[int]:
    """Label Studio's bit stream for a mask: runs where pixels repeat, single values elsewhere."""
    flat = np.repeat(mask.ravel().astype(int) * 255, 4)
    bits = f"{len(flat):032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in (3, 4, 8, 16))
    at = 0
    while at < len(flat):
        run = 1
        while at + run < len(flat) and flat[at + run] == flat[at] and run < 1 << 16:
            run += 1
        if run > 8:
            bits += f"1{3:02b}{run - 1:016b}{flat[at]:08b}"
        else:
            bits += f"0{0:02b}{run - 1:03b}" + f"{flat[at]:08b}" * run
        at += run
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def result(kind: str, label: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "original_width": 31, "original_height": 20, "value": value | {kind: [label]}}


def test_label_studio() -> None:
    folder = Path("own_data/mine")
    photos(folder, "images", 6)
    shares = (np.array(LEAF).reshape(-1, 2) / [31, 20] * 100).tolist()
    stem = {"x": 800 / 31, "y": 20.0, "width": 1200 / 31, "height": 10.0, "rotation": 0}
    drawn = np.zeros(SIZE, bool)
    drawn[12:15, 3:9] = True
    results = [
        result("polygonlabels", "leaf", {"points": shares}),
        result("rectanglelabels", "stem", stem),
        result("brushlabels", "leaf", {"format": "rle", "rle": brush(drawn)}),
        {"type": "choices", "value": {"choices": ["sunny"]}},
    ]
    old = {"result": [result("polygonlabels", "root", {"points": shares})]}
    done = [old, {"result": results}, {"result": [], "was_cancelled": True}]
    tasks = [{"id": i, "data": {"image": f"/data/upload/1/0a1b2c3d-{i}.png"}, "annotations": done} for i in range(3)]
    tasks.append({"id": 3, "data": {"image": "/data/local-files/?d=images/3.png"}, "annotations": [{"result": []}]})
    tasks.append({"id": 4, "data": {"image": "s3://bucket/images/4.png"}, "annotations": []})
    put(folder / "export.json", json.dumps(tasks).encode())
    dataset, told = made(folder)
    assert names(dataset) == [("background", 0), ("leaf", 1), ("stem", 2)]
    wanted = expected()
    wanted[drawn] = 1
    for i in range(3):
        np.testing.assert_array_equal(values(folder / f"masks-from-label-studio/images/{i}.png"), wanted)
    assert not values(folder / "masks-from-label-studio/images/3.png").any(), "submitted without a shape"
    assert not (folder / "masks-from-label-studio/images/4.png").exists(), "not annotated"
    assert "earlier annotations of an image (3)" in told and "results of type choices (3)" in told


@pytest.mark.parametrize("seed", range(3))
def test_brushes_come_back(seed: int) -> None:
    mask = np.random.default_rng(seed).random((19, 23)) < [0.5, 0.02, 0.0][seed]
    np.testing.assert_array_equal(run_lengths.packed(brush(mask), mask.shape), mask)
    for damaged in (brush(mask)[:-9], [300], 1 << 40, brush(mask[1:])):
        with pytest.raises(Wrong, match="brush"):
            run_lengths.packed(damaged, mask.shape)


def test_turned_shapes() -> None:
    tall = turned(rectangle(2, 4, 8, 6), 90)  # around (5, 5)
    assert np.argwhere(rasterise.fill([tall], (10, 10))).tolist() == [[y, x] for y in range(2, 8) for x in (4, 5)]
    corner = np.array([2.0, 4.0])  # clockwise around its upper left corner, as Label Studio turns
    inside = rasterise.fill([turned(rectangle(2, 4, 8, 6), 90, corner)], (12, 10))
    assert np.argwhere(inside).tolist() == [[y, x] for y in range(4, 10) for x in (0, 1)]


def test_check_data_says_that_annotations_have_changed() -> None:
    folder = Path("own_data/mine")
    listed = photos(folder, "photos", 5)
    put(folder / "a.json", coco(listed, [(1, [LEAF])]))
    made(folder)
    assert "changed since" not in run("check-data")
    put(folder / "a.json", coco(listed, [(1, [STEM])]))
    assert "a.json: changed since masks were made of it; the download stage makes them anew" in run("check-data")


def test_the_download_stage_makes_masks_of_changed_annotations_anew(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path("own_data/mine")
    listed = photos(folder, "photos", 6)
    put(folder / "a.json", coco(listed[:5], [(1, [LEAF]), (2, [STEM])]))
    dataset, _ = made(folder)
    monkeypatch.setattr(console.logger, "propagate", True)  # the commands turned it off
    loaded = settings.load()
    masks = [folder / dataset.masks / name for name in listed]
    watched = Path(engines.watch("own_data"))
    download.run(loaded, "mine")
    assert "made anew" not in caplog.text and not masks[5].exists()
    put(masks[0], 2 * np.ones(SIZE, np.uint8))  # by hand
    put(folder / "a.json", coco(listed, [(1, [LEAF])]))  # a mask less in each, a sixth image
    engines.watch("own_data")
    before = watched.stat().st_mtime_ns
    download.run(loaded, "mine")
    assert "masks-from-coco was made anew (6 masks); 1 edited ones kept" in caplog.text
    only_leaf = np.zeros(SIZE, np.uint8)
    only_leaf[2:8, 4:12] = 1
    for path in masks[1:]:
        np.testing.assert_array_equal(values(path), only_leaf)
    assert (values(masks[0]) == 2).all()
    assert engines.watch("own_data") and watched.stat().st_mtime_ns == before, "the stage's own masks rerun nothing"
    assert "changed since" not in run("check-data")
    put(folder / "a.json", coco(listed, [(0, [LEAF])]))
    with pytest.raises(UserError, match="which is not among the dataset's; run `init` again"):
        download.run(loaded, "mine")
    assert np.array_equal(values(masks[1]), only_leaf)


def test_a_new_annotation_file_is_noticed() -> None:
    folder = Path("own_data/mine")
    listed = photos(folder, "photos", 5)
    shape = {"label": "leaf", "shape_type": "polygon", "points": np.array(LEAF).reshape(-1, 2).tolist()}
    for name in listed[:4]:
        put(folder / "photos" / name.replace("png", "json"), labelme(name, [shape]))
    dataset, _ = made(folder)
    assert not (folder / dataset.masks / listed[4]).exists()
    put(folder / "photos" / listed[4].replace("png", "json"), labelme(listed[4], [shape]))
    assert "photos/4.json: changed since" in run("check-data")
    download.run(settings.load(), "mine")
    new, old = (values(folder / dataset.masks / name) for name in (listed[4], listed[0]))
    np.testing.assert_array_equal(new, old)


def geotiff(seed: int, x: float, y: float, epsg: int = 32633, point: bool = False) -> bytes:
    """An image with its upper left corner at (x, y), half a metre per pixel."""
    file = io.BytesIO()
    half = 0.25 if point else 0  # the tie point is the centre of the first pixel
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 2 if point else 1, 3072, 0, 1, epsg)
    tags = [
        (33550, "d", 3, (0.5, 0.5, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, x + half, y - half, 0.0), True),
        (34735, "H", len(keys), keys, True),
    ]
    tifffile.imwrite(file, photo(seed, *SIZE), photometric="rgb", extratags=tags, metadata=None)
    return file.getvalue()


def features(*entries: tuple[dict[str, Any], list[Any]], epsg: int = 32633) -> bytes:
    """Features (properties, rings of pixel coordinates of the image at (1000, 2000)) in metres."""
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}}
    listed = [
        {"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": [
            [[1000 + x / 2, 2000 - y / 2] for x, y in [*corners, corners[0]]] for corners in rings]}}
        for properties, rings in entries
    ]  # fmt: skip
    return json.dumps({"type": "FeatureCollection", "crs": crs, "features": listed}).encode()


def test_geojson_over_geotiff() -> None:
    folder = Path("own_data/mine")
    put(folder / "images/a.tif", geotiff(1, 1000, 2000))
    put(folder / "images/b.tif", geotiff(2, 1000 + 2, 2000, point=True))  # four pixels further right
    put(folder / "images/far.tif", geotiff(3, 5000, 2000))
    hole = [[5, 6], [7, 6], [7, 7], [5, 7]]
    put(folder / "stem.geojson", features(({"id": 7}, [pairs(STEM)])))
    put(folder / "leaf.geojson", features(({"Class": "leaf", "name": "x"}, [pairs(LEAF), hole])))
    dataset, _ = made(folder)
    assert names(dataset) == [("background", 0), ("leaf", 1), ("stem", 2)]
    wanted = expected()
    wanted[6, 5:7] = 0
    np.testing.assert_array_equal(values(folder / "masks-from-geojson/images/a.png"), wanted)
    right = values(folder / "masks-from-geojson/images/b.png")
    np.testing.assert_array_equal(right[:, :-4], wanted[:, 4:])
    assert not right[:, -4:].any() and not (folder / "masks-from-geojson/images/far.png").exists()


def test_geopackage_over_geotiff() -> None:
    raw, shapely = pytest.importorskip("pyogrio.raw"), pytest.importorskip("shapely")
    folder = Path("own_data/mine")
    for i in range(5):
        put(folder / f"images/{i}.tif", geotiff(i, 500000 + 100 * i, 6000000))
    boxes = [shapely.box(500002 + 100 * i, 5999996, 500006 + 100 * i, 5999999) for i in range(5)]
    trees = np.array([shapely.to_wkb(box) for box in boxes], object)
    kinds = np.array(["leaf"] * 4 + [None], object)
    where = {"driver": "GPKG", "crs": "EPSG:32633", "geometry_type": "Polygon"}
    raw.write(folder / "a.gpkg", trees, [kinds], ["Class"], layer="trees", **where)
    road = shapely.to_wkb(shapely.LineString([(500000, 6000000), (500010, 5999990)]))
    raw.write(folder / "a.gpkg", np.array([road], object), [], [], layer="roads", append=True,
              **where | {"geometry_type": "LineString"})  # fmt: skip
    dataset, told = made(folder)
    assert names(dataset) == [("background", 0), ("leaf", 1), ("trees", 2)] and "GeoPackage" in told
    assert "features of type LineString (1)" in told
    for i in range(5):
        wanted = np.zeros(SIZE, np.uint8)
        wanted[2:8, 4:12] = 1 + (i == 4)
        np.testing.assert_array_equal(values(folder / f"masks-from-geopackage/images/{i}.png"), wanted)
    assert {path.name for path in folder.iterdir()} == {"a.gpkg", "images", "masks-from-geopackage"}


def test_a_geopackage_without_its_reader_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("own_data/mine")
    photos(folder, "images", 3)
    put(folder / "a.gpkg", b"SQLite format 3\0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "a.gpkg: reading it needs two more packages: `pip install pyogrio shapely`" in refused(folder)


def test_geojson_in_another_reference_system_is_refused() -> None:
    folder = Path("own_data/mine")
    for i in range(3):
        put(folder / f"images/{i}.tif", geotiff(i, 1000, 2000))
    put(folder / "a.geojson", features(({}, [pairs(LEAF)]), epsg=4326))
    assert "are EPSG:4326, but the reference system of images/0.tif is EPSG:32633; reproject" in refused(folder)


def test_named_background_and_ignored_shapes() -> None:
    folder = Path("own_data/mine")
    kinds = (("leaf", [0, 0, 10, 0, 10, 20, 0, 20]), ("_background_", [2, 2, 6, 2, 6, 4, 2, 4]), ("__ignore__", STEM))
    shapes = [{"label": label, "shape_type": "polygon", "points": pairs(corners)} for label, corners in kinds]
    for name in photos(folder, ".", 3):
        put(folder / name.replace("png", "json"), labelme(name, shapes))
    dataset, _ = made(folder)
    assert names(dataset) == [("_background_", 0), ("leaf", 1)] and dataset.ignore == [255]
    wanted = np.zeros(SIZE, np.uint8)
    wanted[:, :10] = 1
    wanted[2:4, 2:6] = 0
    wanted[4:6, 8:20] = 255
    np.testing.assert_array_equal(values(folder / "masks-from-labelme/0.png"), wanted)


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
    "a video": ({"a.xml": b'<annotations><track id="0"/></annotations>'}, "not a valid CVAT XML file: it holds the"),
    "half an XML": ({"a.xml": b"<annotations>"}, "a.xml: cannot be read as XML"),
    "VOC": (
        {"a.xml": b"<annotation><object/></annotation>"},
        "a.xml is PASCAL VOC XML, which holds boxes only, and a box does not say which of its pixels are the object's",
    ),
    "GeoJSON": ({"a.geojson": b'{"type": "FeatureCollection", "features": []}'}, "map coordinates need GeoTIFF images"),
    "several formats": ({"a.json": coco(["0.png"], [(1, [LEAF])]), "0.txt": b"0 0 0 1 0 1 1"}, "several formats"),
    "not JSON": ({"a.json": b"{"}, "a.json: cannot be read as JSON"),
    "boxes only": ({"a.json": coco(["0.png"], [(1, [])])}, "no areas, only boxes without an outline (1)"),
    "an odd number of coordinates": ({"a.json": coco(["0.png"], [(1, [[1, 2, 3]])])}, "a polygon is not a list"),
    "run lengths of another size": (
        {"a.json": coco(["0.png"], [(1, {"size": [20, 31], "counts": [3, 4]})])}, "0.png: run lengths do not add up"),
    "no such image": ({"a.json": coco(["else.png"], [(1, [LEAF])])}, "(1, for example else.png) is in the folder"),
    "far away": ({"a.json": coco(["0.png"], [(1, [[1, 1, 1e300, 1, 4, 4]])])}, "0.png: a shape reaches too far"),
    "no category": ({"a.json": coco(["0.png"], [(7, [LEAF])])}, "category 7, which is not listed"),
    "twice": ({"a.json": coco(["0.png"], [(1, [LEAF])]), "b.json": coco(["0.png"], [(1, [LEAF])])}, "leave one"),
    "pixels in YOLO": ({"0.txt": b"0 3 4 10 4 10 9"}, "0.txt: not a valid YOLO segmentation file: line 1"),
    "another size": ({"0.json": labelme("0.png", [
        {"label": "a", "shape_type": "polygon", "points": [[0, 0], [9, 0], [9, 9]]}
    ]).replace(b"31", b"62")}, "annotated at 20×62 pixels, but the image has 20×31"),
    "VOC without a file name": (
        {"a.xml": b"<annotation><object><name>a</name><polygon/></object></annotation>"},
        "a.xml: not a valid PASCAL VOC XML file: an <annotation> has no <filename>",
    ),
    "height for width": (
        {"a.json": coco(["0.png"], [(1, [LEAF])]).replace(b'"height": 20, "width": 31', b'"height": 31, "width": 20')},
        "0.png: annotated at 31×20 pixels, but the image has 20×31",
    ),
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
