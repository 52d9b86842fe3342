"""COCO from the web, from the user's zips and from a folder: masks as pycocotools draws them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import SIDE, as_folder, as_zip, coco_members, published, small_coco
from web import Site, serving

from dualteacher import settings
from dualteacher.data.formats.annotations import coco_masks
from dualteacher.data.formats.annotations.shapes import Wrong
from dualteacher.data.pack import Pack
from dualteacher.data.sources import coco
from dualteacher.stages import download, prepare
from dualteacher.system import files, paths
from dualteacher.system.errors import UserError
from dualteacher.workflow import presets

PLACE = paths.Dataset("coco")
PRESETS = Path(__file__).parents[2] / "presets"
Params = Callable[..., settings.Settings]
ARCHIVES = {"train": "TRAIN", "val": "VAL", "annotations": "ANNOTATIONS"}


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Settings for a small COCO in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    small_coco(monkeypatch)

    def make(**dataset: Any) -> settings.Settings:
        raw = presets.load("tiny", PRESETS)
        nothing = {"source": "coco", "train": None, "val": None, "annotations": None, "lists": False}
        raw["datasets"] = {"coco": nothing | dataset}
        raw["partition"] = {"half": {"fraction": 0.5, "count": None, "list": None, "held_out": None}}
        raw["grid"] |= {"dataset": ["coco"], "partition": ["half"]}
        return settings.parse(raw)

    return make


def zips(folder: Path) -> dict[str, str]:
    """The three archives, by their key in params.yaml."""
    made = {}
    for key, start in (("train", "train2017/"), ("val", "val2017/"), ("annotations", "annotations/")):
        members = {name: data for name, data in coco_members().items() if name.startswith(start)}
        made[key] = str(as_zip(folder / f"{key}.zip", members))
    return made


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    """The three zips, served and published with their hashes."""
    (tmp_path / "served").mkdir()
    with serving(Site()) as made:
        for key, path in zips(tmp_path / "served").items():
            content = Path(path).read_bytes()
            address = made.put(f"/{key}.zip", content)
            monkeypatch.setattr(coco, ARCHIVES[key], published(address, f"{key}.zip", content, "md5"))
        yield made


def run(loaded: settings.Settings) -> None:
    download.run(loaded, "coco")
    prepare.run(loaded, "coco")


def mask(pack: Pack, index: int) -> np.ndarray:
    found = pack.mask(index)
    assert found is not None
    return found


def test_from_the_web_to_packs(params: Params, site: Site) -> None:
    run(params())
    train, val = Pack(PLACE.train), Pack(PLACE.val)
    assert train.ids == [f"{i:012d}" for i in range(7, 11)] and len(val) == 2
    listed = coco.COCO(params().datasets["coco"]).classes()
    assert [info.name for info in listed[:2]] == ["background", "person"] and len(listed) == train.num_classes == 81
    assert train.encoded(0).to_pybytes() == coco_members()["train2017/000000000007.jpg"]
    person, dog, car = 1, 17, 3  # category 18 is the 17th class
    first = np.zeros(SIDE, np.uint8)
    first[0:10, 0:10] = first[4:12, 12:20] = person
    first[2:6, 2:6] = dog  # the smaller object wins, wherever the file lists it
    assert (mask(train, 0) == first).all()
    crowd = np.zeros(SIDE, np.uint8)
    crowd[:, :5] = car
    assert (mask(train, 1) == crowd).all()
    assert (mask(train, 2) == 0).all()  # no objects: background
    assert len(site.requests) == 3


def test_zips_and_folders_of_the_user_give_the_same_packs(params: Params, site: Site, tmp_path: Path) -> None:
    run(params())
    first = files.sha256(PLACE.train), files.sha256(PLACE.val)
    mine = {key: tmp_path / f"{key}.zip" for key in ARCHIVES}
    for key, path in mine.items():
        path.write_bytes(site.files[f"/{key}.zip"])
    run(params(**{key: str(path) for key, path in mine.items()}))
    assert (files.sha256(PLACE.train), files.sha256(PLACE.val)) == first
    folder = str(as_folder(tmp_path / "mine", coco_members()))
    run(params(train=folder, val=folder, annotations=folder))
    assert (files.sha256(PLACE.train), files.sha256(PLACE.val)) == first
    assert len(site.requests) == 3


def broken(tmp_path: Path, **changes: Any) -> dict[str, str]:
    """A folder whose training annotations have other content."""
    members = coco_members()
    name = "annotations/instances_train2017.json"
    members[name] = json.dumps(json.loads(members[name]) | changes).encode()
    folder = str(as_folder(tmp_path / "mine", members))
    return {"train": folder, "val": folder, "annotations": folder}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"images": [], "annotations": []}, "0 images listed in instances_train2017.json, expected 4"),
        ({"annotations": [{"segmentation": []}]}, "not COCO's instance annotations"),
        ({"categories": [{"id": 1, "name": "cell"}], "annotations": []}, "not the 80 classes of COCO"),
        (
            {"annotations": [{"image_id": 7, "category_id": 1, "area": 1, "segmentation": [[1, 2, 3, 4]]}]},
            "000000000007.jpg: damaged annotation",
        ),
    ],
    ids=["images", "keys", "classes", "polygon"],
)
def test_annotations_that_cannot_be_cocos_are_one_line(
    params: Params, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    loaded = params(**broken(tmp_path, **changes))
    with pytest.raises(UserError, match=complaint) as caught:
        run(loaded)
    assert "\n" not in str(caught.value) and not PLACE.train.exists()


def test_missing_images_and_files_are_named(params: Params, tmp_path: Path) -> None:
    folder = Path(broken(tmp_path)["train"])
    here = {"train": str(folder), "val": str(folder), "annotations": str(folder)}
    (folder / "val2017" / "000000000108.jpg").unlink()
    with pytest.raises(UserError, match="1 of 2 images of val2017 missing: 000000000108"):
        run(params(**here))
    (folder / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(UserError, match=r"contains no instances_val2017\.json"):
        run(params(**here))


def drawn(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    made = np.zeros(size, np.uint8)
    coco_masks.paint(made, polygons, 1)
    return made


def test_polygons_are_drawn_as_pycocotools_draws_them() -> None:
    """Hash of the same 200 masks from `mask.decode(mask.merge(mask.frPyObjects(…)))` of pycocotools 2.0.11."""
    rng = np.random.default_rng(18)
    digest = hashlib.sha256()
    for i in range(200):
        height, width = rng.integers(1, 60, 2).tolist()
        corners = rng.uniform(-10, 70, (int(rng.integers(3, 14)), 2))
        corners = [corners, np.round(corners), np.round(2 * corners) / 2, np.repeat(corners, 2, 0)][i % 4]
        second = rng.uniform(0, 50, 10).tolist()
        digest.update(drawn([corners.ravel().tolist(), second], (height, width)).tobytes())
    assert digest.hexdigest() == "6b93b58a3150ad46833f6265c6fc965628effb1f56ef34aeadffb9730614cb4e"


def test_a_triangle_by_hand() -> None:
    """The pixels whose centre lies on the diagonal are outside."""
    found = drawn([[0, 0, 4, 0, 0, 4]], (4, 5))
    assert found.tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("polygon", [[1, 2, 3, 4], [0, 0, 4, 0, 0], [0, 0, 4, float("nan"), 0, 4], []])
def test_a_damaged_polygon_is_refused(polygon: list[float]) -> None:
    with pytest.raises(Wrong):
        drawn([polygon], (5, 5))


def test_the_class_table_is_the_published_one() -> None:
    names = coco.NAMES.split(", ")
    assert len(set(names)) == 80
    assert [names[i] for i in (0, 16, 79)] == ["person", "dog", "toothbrush"]
