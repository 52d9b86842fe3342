"""From a folder of one's own to suggested images, and with their corrected masks back into it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dualteacher import settings
from dualteacher.data import class_table
from dualteacher.data.formats import folder_layout, mask_files
from dualteacher.data.formats.annotations import matching
from dualteacher.data.pack import Pack
from dualteacher.labelling import acceptance, coco
from dualteacher.stages import classes, download, partition, prepare
from dualteacher.system import paths
from dualteacher.system.errors import UserError
from tests.core.conftest import toy_settings

from .conftest import command, options, record, table, untrained, write_params

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))  # where the tests of folders keep theirs
from pictures import described, encoded, mask, photo, put

PAGE = Path(__file__).parents[2] / "docs" / "labelling.md"
CELL = paths.Cell("sample", "all", "dual_teacher", 0)  # as the page has it
UNLABELLED, NEW = 11, 4


def mine(changes: dict[str, Any] | None = None, model: dict[str, Any] | None = None) -> settings.Settings:
    """A folder with six images that have masks and more that have none, prepared, with an untrained student."""
    for i in range(6):
        put(Path(f"photos/images/a{i}.png"), photo(i))
        put(Path(f"photos/masks/a{i}.png"), spelled(i, changes))
    for i in range(UNLABELLED):
        put(Path(f"photos/more/day 1/b{i:02d}.jpg"), encoded(photo(20 + i), "JPEG"))
    own = described(Path("photos"), unlabelled="more", **(changes or {}))
    raw = toy_settings(**({"model": model, "inference": {"multiple": 1}} if model else {})).model_dump(mode="json")
    raw["datasets"] = {"sample": own.model_dump(mode="json")}
    raw["grid"] |= {"dataset": ["sample"], "partition": ["all"]}
    raw["partition"] = {"all": raw["partition"]["some"] | {"count": "all"}}
    loaded = settings.parse(raw)
    write_params(loaded)
    run(loaded)
    untrained(loaded, CELL)
    return loaded


def spelled(i: int, changes: dict[str, Any] | None) -> np.ndarray:
    """A mask as the folder's files have it."""
    values = [entry["value"] for entry in (changes or {}).get("classes", [])] or [0, 1, 2]
    return np.array(values, np.uint8)[mask(i)]


def run(loaded: settings.Settings) -> None:
    download.run(loaded, "sample")
    prepare.run(loaded, "sample")
    classes.run(loaded, "sample")
    partition.run(loaded, "sample", "all", 0)


def masks() -> int:
    """Images with masks, in both packs."""
    packs = [Pack(paths.Dataset("sample").train), Pack(paths.Dataset("sample").val)]
    return sum(pack.has_mask(i) for pack in packs for i in range(len(pack)))


def number(row: dict[str, str]) -> int:
    return 20 + int(row["image_id"][-2:])


def truth(image_id: str) -> np.ndarray:
    """The mask that prepare made of an image, by its new name."""
    for place in (paths.Dataset("sample").train, paths.Dataset("sample").val):
        pack = Pack(place)
        if image_id in pack.ids:
            found = pack.mask(pack.index(image_id))
            assert found is not None
            return found
    raise AssertionError(image_id)


COLORS = {
    "classes": [{"name": f"class {i}", "color": [i, 40, 9], "value": [9 * i, 0, 200]} for i in range(3)],
    "ignore": [[0, 0, 0]],
}


FROZEN = {"backbone": "test_vit", "architecture": "dpt", "freeze": "backbone"}


@pytest.mark.parametrize(("changes", "model"), [(None, None), (COLORS, None), (None, FROZEN)])
def test_corrected_masks_come_back_as_labelled_images(
    changes: dict[str, Any] | None, model: dict[str, Any] | None
) -> None:
    loaded = mine(changes, model)
    assert masks() == 6
    command(*options(CELL, NEW, "mixed", "next"))
    rows = table("next")
    for row in rows:
        put(Path("next/masks") / f"{row['image_id']}.png", mask(number(row)))
    command("accept", "next")
    run(loaded)
    assert masks() == 6 + NEW
    assert len(list(Path("photos/more").rglob("*.jpg"))) == UNLABELLED - NEW, "moved, not copied"
    for row in rows:
        np.testing.assert_array_equal(truth(row["image_id"].replace("more/", "images/")), mask(number(row)))


def test_masks_that_nobody_changed_are_left_out_unless_asked_for() -> None:
    loaded = mine()
    command(*options(CELL, NEW, "random", "next"))
    first, second, *_ = table("next")
    put(Path("next/masks") / f"{first['image_id']}.png", mask(number(first)))
    (Path("next/masks") / f"{second['image_id']}.png").unlink()
    Path("photos/images/day 1").mkdir()  # as if it had been interrupted here
    name = Path(first["image"]).name
    shutil.move(f"photos/more/day 1/{name}", f"photos/images/day 1/{name}")
    command("accept", "next")
    run(loaded)
    assert masks() == 7
    command("accept", "next", "--unchanged")
    run(loaded)
    assert masks() == 6 + NEW - 1, "all but the one without a mask; what was taken before is no matter"
    put(Path("next/masks") / f"{first['image_id']}.png", mask(number(first)) // 2)
    with pytest.raises(UserError, match="already exists; nothing was changed"):
        command("accept", "next")


@pytest.mark.slow
def test_coco_annotations_and_masks_of_colours_come_back_too() -> None:
    loaded = mine()
    command(*options(CELL, NEW, "random", "next"))
    rows = table("next")
    classes = class_table.read("sample")
    exported = coco.document(classes, [(Path(row["image"]).name, mask(number(row))) for row in rows[:2]])
    Path("exported.json").write_text(json.dumps(exported))
    command("accept", "next", "--coco", "exported.json")
    shown = np.array([info.color for info in classes], np.uint8)[mask(number(rows[2]))]
    put(Path("next/masks") / f"{rows[2]['image_id']}.png", shown)
    for row in (*rows[:2], rows[3]):
        (Path("next/masks") / f"{row['image_id']}.png").unlink()
    command("accept", "next")
    run(loaded)
    for row in rows[:3]:
        np.testing.assert_array_equal(truth(row["image_id"].replace("more/", "images/")), mask(number(row)))
    assert masks() == 9


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        (["more/a.jpg", "more/sub/a.jpg"], {"more/a.jpg": "more/a.jpg", "more/sub/a.jpg": "more/sub/a.jpg"}),
        (["../up/next/images/more/a.jpg"], {"more/a.jpg": "../up/next/images/more/a.jpg"}),
        (["images/more/sub/a.jpg"], {"more/sub/a.jpg": "images/more/sub/a.jpg"}),
        (["a.jpg"], {}),  # of which folder?
        (["b_1.jpg"], {"b 1.jpg": "b_1.jpg"}),
        (["e7c01884-b_1.jpg"], {"b 1.jpg": "e7c01884-b_1.jpg"}),  # uploaded to Label Studio
        (["upload/3/b 1.jpg", "more/a.jpg"], {"b 1.jpg": "upload/3/b 1.jpg", "more/a.jpg": "more/a.jpg"}),
        (["c.jpg"], {}),
    ],
)
def test_exported_names_are_matched_where_there_is_no_doubt(listed: list[str], found: dict[str, str]) -> None:
    names = ["more/a.jpg", "more/sub/a.jpg", "b 1.jpg"]
    assert matching.match(names, listed) == found


def test_rectangles_alone_are_no_masks_and_strange_images_are_named() -> None:
    mine()
    command(*options(CELL, 2, "random", "next"))
    first, second = table("next")
    classes = class_table.read("sample")
    shown = [(f"e7c01884-{Path(first['image']).name}", mask(1)), ("strange.jpg", mask(2)), (second["image"], mask(3))]
    exported = coco.document(classes, shown)
    ids = {entry["file_name"]: entry["id"] for entry in exported["images"]}
    for annotation in exported["annotations"]:
        if annotation["image_id"] == ids[second["image"]]:
            annotation["segmentation"] = []
    Path("exported.json").write_text(json.dumps(exported))
    with pytest.raises(UserError, match=r"absent\.json: no such file; expected the annotation tool's COCO export"):
        command("accept", "next", "--coco", "absent.json")
    told = command("accept", "next", "--coco", "exported.json")
    assert len(list(Path("photos/masks/day 1").iterdir())) == 1
    assert "1 annotated images were not suggested, for example strange.jpg" in told


def test_accept_says_what_it_changed_in_validation() -> None:
    loaded = mine()
    own = loaded.datasets["sample"]
    assert isinstance(own, settings.Folder)
    before = acceptance.image_ids(folder_layout.arrange(folder_layout.scan(own), own).val)
    command(*options(CELL, 10, "random", "next"))
    for row in table("next"):
        put(Path("next/masks") / f"{row['image_id']}.png", mask(number(row)))
    told = command("accept", "next")
    after = acceptance.image_ids(folder_layout.arrange(folder_layout.scan(own), own).val)
    assert before != after, "else this tells nothing"
    assert f"validation is now {len(after)} images" in told
    assert all(name in told for name in sorted(after - before)[:3])


def test_what_is_refused_changes_nothing() -> None:
    mine()
    command(*options(CELL, 2, "random", "next"))
    before = sorted(path for path in Path("photos").rglob("*"))
    first, second = table("next")
    good, bad = (Path("next/masks") / f"{row['image_id']}.png" for row in (first, second))
    put(good, mask(1))
    for wrong, complaint in [
        (mask(1, 9, 9), "the mask is 9×9, the image 20×31"),
        (np.full((20, 31), 7, np.uint8), "contains class 7, but there are only 3 classes"),
        (photo(3), "colours belong to no class"),
    ]:
        put(bad, wrong)
        with pytest.raises(UserError, match=complaint):
            command("accept", "next")
    bad.write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be used: not an image"):
        command("accept", "next")
    put(bad, mask(2))
    target = Path("photos/masks/day 1") / bad.name
    put(target, mask(2))
    with pytest.raises(UserError, match="already exists; nothing was changed"):
        command("accept", "next")
    shutil.rmtree(target.parent)
    assert sorted(path for path in Path("photos").rglob("*")) == before
    with pytest.raises(UserError, match=r"suggest\.json: no such file"):
        command("accept", "photos")
    assert record("next")["count"] == 2


def test_masks_keep_their_unknown_pixels() -> None:
    loaded = mine({"ignore": [77]})
    command(*options(CELL, 1, "random", "next"))
    (row,) = table("next")
    corrected = mask(number(row))
    corrected[:3] = 255
    put(Path("next/masks") / f"{row['image_id']}.png", corrected)
    command("accept", "next")
    (written,) = Path("photos/masks/day 1").iterdir()
    assert set(np.unique(mask_files.read_values(written.read_bytes(), color=False).values)) == {0, 1, 2, 77}
    with Image.open(written) as opened:
        assert opened.mode == "L"
    run(loaded)
    np.testing.assert_array_equal(truth(row["image_id"].replace("more/", "images/")), corrected)


@pytest.mark.slow
def test_the_commands_of_the_page() -> None:
    suggest, accept = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[:2]
    loaded = mine()
    command(*arguments(suggest))
    rows = table("next")
    assert len(rows) == 10
    for row in rows:
        put(Path("next/masks") / f"{row['image_id']}.png", mask(number(row)))
    command(*arguments(accept))
    run(loaded)
    assert masks() == 6 + 10


def arguments(block: str) -> list[str]:
    """Of the one command in a block of the page."""
    words = shlex.split(block)
    assert words[:3] == ["python", "-m", "dualteacher"]
    return words[3:]
