"""ADE20K from the web, from the user's zip and from a folder: the same packs, in our encoding."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import ade20k_members, as_folder, as_zip, known_lists, png, published, small_ade20k, stripes
from web import Site, serving

from dualteacher import settings
from dualteacher.data import official_lists, partition
from dualteacher.data.class_table import voc_color
from dualteacher.data.pack import Pack
from dualteacher.data.sources import ade20k
from dualteacher.data.sources import published as common
from dualteacher.stages import download, prepare
from dualteacher.stages import partition as partition_stage
from dualteacher.system import files, paths
from dualteacher.system.errors import UserError
from dualteacher.workflow import presets

PLACE = paths.Dataset("ade20k")
PRESETS = Path(__file__).parents[2] / "presets"
Params = Callable[..., settings.Settings]


def image_ids(numbers: list[int]) -> list[str]:
    return [f"ADE_train_{i:08d}" for i in numbers]


def listed(numbers: list[int], before: str = "", after: str = "") -> str:
    """Lines as the published lists have them."""
    return (
        "".join(f"{before}images/training/{name}.jpg annotations/training/{name}.png\n" for name in image_ids(numbers))
        + after
    )


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Settings for a small ADE20K in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    small_ade20k(monkeypatch)
    known_lists(monkeypatch, "ade20k", {"dual_teacher_2": (listed([1, 4]), listed([2, 3, 5, 6]))}, {})

    def make(**dataset: Any) -> settings.Settings:
        raw = presets.load("tiny", PRESETS)
        raw["datasets"] = {"ade20k": {"source": "ade20k", "archive": None, "lists": True} | dataset}
        raw["partition"] = {
            "dual_teacher_2": {"fraction": None, "count": None, "list": "dual_teacher_2", "held_out": None},
            "half": {"fraction": 0.5, "count": None, "list": None, "held_out": None},
        }
        chosen = "dual_teacher_2" if raw["datasets"]["ade20k"]["lists"] else "half"
        raw["grid"] |= {"dataset": ["ade20k"], "partition": [chosen]}
        return settings.parse(raw)

    return make


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, params: Params) -> Iterator[Site]:
    """The zip and the lists, served."""
    with serving(Site()) as made:
        archive = as_zip(tmp_path / "served.zip", ade20k_members()).read_bytes()
        (tmp_path / "served.zip").unlink()
        address = made.put("/ADEChallengeData2016.zip", archive)
        monkeypatch.setattr(ade20k, "ARCHIVE", published(address, "ADEChallengeData2016.zip", archive, "sha1"))
        monkeypatch.setattr(common, "RAW_ADDRESSES", (f"{made.address}/{{repository}}/{{commit}}/{{path}}",))
        served = known_lists(monkeypatch, "ade20k", {"dual_teacher_2": (listed([1, 4]), listed([2, 3, 5, 6]))}, {})
        for path, text in served.items():
            made.put(f"/somebody/code/{'c' * 40}/{path}", text.encode())
        yield made


def run(loaded: settings.Settings) -> None:
    download.run(loaded, "ade20k")
    prepare.run(loaded, "ade20k")


def test_from_the_web_to_packs_and_the_official_partition(site: Site, params: Params) -> None:
    run(params())
    train, val = Pack(PLACE.train), Pack(PLACE.val)
    members = ade20k_members()
    assert train.ids == image_ids([1, 2, 3, 4, 5, 6])
    assert len(val) == 3 and train.num_classes == 150
    published_image = members["ADEChallengeData2016/images/training/ADE_train_00000002.jpg"]
    assert train.encoded(1).to_pybytes() == published_image  # the very bytes
    mask = train.mask(1)
    assert mask is not None
    assert (mask == stripes([255, 1, 149])).all()  # 0 → ignore, 2 → 1, 150 → 149

    partition_stage.run(params(), "ade20k", "dual_teacher_2", 0)
    split = paths.Partition("ade20k", "dual_teacher_2", 0)
    assert partition.read(split.table) == (image_ids([1, 4]), [], image_ids([2, 3, 5, 6]))
    told = json.loads(split.provenance.read_text())
    assert (told["kind"], told["list"], told["repository"]) == ("official", "dual_teacher_2", "somebody/code")
    assert told["list_sha256"] == partition.list_hash(image_ids([1, 4]))
    requests = len(site.requests)
    download.run(params(), "ade20k")
    assert len(site.requests) == requests == 3  # what is there is not fetched again


def test_a_zip_or_folder_of_the_user_gives_the_same_packs(site: Site, params: Params, tmp_path: Path) -> None:
    run(params(lists=False))
    first = files.sha256(PLACE.train), files.sha256(PLACE.val)
    mine = tmp_path / "mine.zip"
    mine.write_bytes(site.files["/ADEChallengeData2016.zip"])
    unpacked = as_folder(tmp_path / "unpacked", ade20k_members())
    for archive in (mine, unpacked, unpacked / "ADEChallengeData2016"):
        run(params(lists=False, archive=str(archive)))
        assert (files.sha256(PLACE.train), files.sha256(PLACE.val)) == first
    assert len(site.requests) == 1


def test_without_lists_nothing_but_the_archive_is_fetched(site: Site, params: Params) -> None:
    run(params(lists=False))
    assert len(site.requests) == 1
    with pytest.raises(UserError, match=r"needs datasets\.ade20k\.lists: true"):
        raw = params(lists=False).model_dump(mode="json")
        raw["grid"]["partition"] = ["dual_teacher_2"]
        settings.parse(raw)


def test_another_archive_than_the_published_one_is_refused(params: Params, tmp_path: Path) -> None:
    other = as_zip(tmp_path / "other.zip", ade20k_members())
    with pytest.raises(UserError, match=r"other\.zip: sha1 is"):
        download.run(params(archive=str(other), lists=False), "ade20k")
    with pytest.raises(UserError, match=r"under datasets: archive = gone\.zip: no such file or folder"):
        download.run(params(archive="gone.zip", lists=False), "ade20k")


def folder_without(tmp_path: Path, *parts: str) -> str:
    members = {name: data for name, data in ade20k_members().items() if not name.endswith(parts)}
    return str(as_folder(tmp_path / "unpacked", members))


def test_what_is_missing_is_named(params: Params, tmp_path: Path) -> None:
    loaded = params(archive=folder_without(tmp_path, "train_00000002.jpg", "train_00000005.jpg"), lists=False)
    download.run(loaded, "ade20k")
    with pytest.raises(UserError) as caught:
        prepare.run(loaded, "ade20k")
    assert "2 of 6 images of images/training missing: ADE_train_00000002, ADE_train_00000005" in str(caught.value)
    assert not PLACE.train.exists()


def test_a_missing_mask_is_named(params: Params, tmp_path: Path) -> None:
    loaded = params(archive=folder_without(tmp_path, "val_00000003.png"), lists=False)
    download.run(loaded, "ade20k")
    with pytest.raises(UserError, match="1 of 3 masks of annotations/validation missing: ADE_val_00000003"):
        prepare.run(loaded, "ade20k")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (png(stripes([0, 151])), "values \\[150\\]"),
        (png(stripes([1, 255])), "values \\[254\\]"),  # somebody's masks, encoded already
        (png(np.zeros((20, 28, 3), np.uint8)), "not a mask"),
        (b"no png", "not a mask"),
        (png(stripes([1, 2])[:10]), "the mask is 10×28, the image 20×28"),
    ],
    ids=["too large", "encoded twice", "colours", "no image", "another size"],
)
def test_a_mask_that_cannot_be_ade20ks_stops_everything(
    params: Params, tmp_path: Path, content: bytes, complaint: str
) -> None:
    members = ade20k_members()
    members["ADEChallengeData2016/annotations/training/ADE_train_00000003.png"] = content
    loaded = params(archive=str(as_folder(tmp_path / "unpacked", members)), lists=False)
    download.run(loaded, "ade20k")
    with pytest.raises(UserError, match=f"ADE_train_00000003.*{complaint}"):
        prepare.run(loaded, "ade20k")
    assert not PLACE.train.exists()


def test_a_folder_that_changed_after_the_download_stage_is_noticed(params: Params, tmp_path: Path) -> None:
    loaded = params(archive=folder_without(tmp_path), lists=False)
    download.run(loaded, "ade20k")
    (tmp_path / "unpacked" / "more.txt").write_text("more")
    with pytest.raises(UserError, match="run the download stage again"):
        prepare.run(loaded, "ade20k")


def test_the_class_table_is_the_published_one() -> None:
    names = ade20k.NAMES.split(", ")
    assert len(set(names)) == 150
    assert [names[i] for i in (0, 12, 20, 149)] == ["wall", "person", "car", "flag"]
    assert len({voc_color(i + 1) for i in range(150)}) == 150


def test_the_lists_of_the_real_thing_add_up() -> None:
    names = [f"dual_teacher_{n}" for n in (631, 1263, 2526, 5052, 10105)]
    assert official_lists.names("ade20k") == names + [f"unimatch_v2_1_{n}" for n in (64, 32, 16, 8, 4)]
    for name in names:
        official = official_lists.official("ade20k", name)
        assert official.unlabelled is not None
        assert official.labelled.lines + official.unlabelled.lines == 20210


def test_a_list_of_labelled_images_leaves_the_rest_unlabelled(params: Params, tmp_path: Path) -> None:
    known = official_lists.known()["ade20k"]["partitions"]["dual_teacher_2"]
    known["unlabelled"] = None
    known["labelled"]["sha256"] = None
    loaded = params(archive=folder_without(tmp_path))
    PLACE.lists.mkdir(parents=True)
    (PLACE.lists / "dual_teacher_2.labelled.txt").write_text(listed([1, 4]))
    run(loaded)
    partition_stage.run(loaded, "ade20k", "dual_teacher_2", 0)
    split = paths.Partition("ade20k", "dual_teacher_2", 0)
    assert partition.read(split.table) == (image_ids([1, 4]), [], image_ids([2, 3, 5, 6]))
    told = json.loads(split.provenance.read_text())
    assert told["file_sha256"] == files.sha256(PLACE.lists / "dual_teacher_2.labelled.txt")
