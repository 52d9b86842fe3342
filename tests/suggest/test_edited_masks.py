"""What editors and annotation tools do to suggested masks: rebuilt palettes, other names, categories nobody uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dualteacher.data import class_table
from dualteacher.labelling import coco, corrected, suggestion
from dualteacher.system.errors import UserError

from .conftest import command, options, table
from .test_round_trip import CELL, mask, mine, put, run, truth

COLORS = [[0, 0, 0], [200, 0, 0], [0, 200, 0]]
CLASSES = [{"name": f"class {i}", "color": color, "value": i} for i, color in enumerate(COLORS)]
SIZE = (20, 31)


def reader(folder: Path, colors: list[list[int]]) -> corrected.Reader:
    rows = [{"image_id": "a"}]
    return corrected.png_reader(
        folder, suggestion.Suggestion(folder, "mine", [str(i) for i in range(len(colors))], colors, rows)
    )


def with_palette(indices: np.ndarray, palette: list[list[int]], folder: Path) -> None:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette([channel for color in palette for channel in color])
    folder.mkdir(exist_ok=True)
    image.save(folder / "a.png")


def test_indices_of_a_rebuilt_palette_go_by_colour() -> None:
    loaded = mine({"classes": CLASSES})
    command(*options(CELL, 1, "random", "next"))
    (row,) = table("next")
    drawn = mask(3)
    with Image.open(Path("next/masks") / f"{row['image_id']}.png") as opened:
        colors = np.array(opened.getpalette("RGB")).reshape(-1, 3)
    order = [2, 0, 1]  # as the editor lists the colours
    place = np.argsort(order)
    with_palette(place[drawn], [COLORS[index] for index in order], Path("edited"))
    assert (np.asarray(Image.open("edited/a.png").convert("RGB")) == colors[drawn]).all(), "it looks the same"
    put(Path("next/masks") / f"{row['image_id']}.png", Path("edited/a.png").read_bytes())
    assert "1 masks added" in command("accept", "next")
    run(loaded)
    np.testing.assert_array_equal(truth(row["image_id"].replace("more/", "images/")), drawn)


def test_which_palettes_hold_indices() -> None:
    drawn = mask(1)
    drawn[0] = 255
    folder = Path("masks")
    suggested = suggestion.suggested_palette(COLORS).tolist()
    ramp = [[i, i, i] for i in range(256)]
    for palette in (suggested, ramp):
        with_palette(drawn, palette, folder)
        np.testing.assert_array_equal(reader(folder, COLORS)({"image_id": "a"}), drawn)
    with_palette(np.where(drawn == 255, 3, drawn), [*COLORS, [255, 255, 255]], folder)
    np.testing.assert_array_equal(reader(folder, COLORS)({"image_id": "a"}), drawn)
    with_palette(drawn % 3, [[0, 0, 0], [128, 0, 0], [0, 128, 0]], folder)
    with pytest.raises(
        UserError, match=r"a\.png: cannot be used: 2 colours belong to no class, for example \[0, 128, 0\]"
    ):
        reader(folder, COLORS)({"image_id": "a"})
    twins = [[9, 9, 9], [200, 0, 0], [200, 0, 0]]
    with_palette(drawn, suggestion.suggested_palette(twins).tolist(), folder)
    np.testing.assert_array_equal(reader(folder, twins)({"image_id": "a"}), drawn)
    with_palette(np.zeros(SIZE), [[200, 0, 0]], folder)
    with pytest.raises(UserError, match=r"1 colours belong to several classes, for example \[200, 0, 0\]"):
        reader(folder, twins)({"image_id": "a"})


def test_masks_of_unknown_images_are_counted() -> None:
    mine()
    command(*options(CELL, 2, "random", "next"))
    for name in ("task-1-annotation-2.png", "more/day 1/other.tif"):
        put(Path("next/masks") / name, mask(1))
    told = command("accept", "next")
    assert (
        "next/masks: 2 masks ignored, as no suggested image has their name: more/day 1/other.tif,"
        " task-1-annotation-2.png" in told
    )


def changed(change: Callable[[dict[str, Any]], Any]) -> str:
    """What `accept` says to a COCO file of one image after a change."""
    (row,) = table("next")
    content = coco.document(class_table.read("sample"), [(Path(row["image"]).name, mask(5))])
    change(content)
    Path("exported.json").write_text(json.dumps(content))
    return command("accept", "next", "--coco", "exported.json")


def test_what_coco_files_hold_besides() -> None:
    loaded = mine()
    command(*options(CELL, 1, "random", "next"))
    (row,) = table("next")

    def beside(content: dict[str, Any]) -> None:
        content["categories"].insert(0, {"id": 0, "name": "objects", "supercategory": "none"})  # as Roboflow writes
        content["annotations"][0]["segmentation"] += [[3.0, 4.0], [3.0, 4.0, 9.0, 4.0], []]  # without an area
        for image in content["images"]:
            image["id"] = str(image["id"])

    assert "1 masks added" in changed(beside)
    run(loaded)
    np.testing.assert_array_equal(truth(row["image_id"].replace("more/", "images/")), mask(5))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda c: (c["categories"].append({"id": 9, "name": "lamp"}), c["annotations"][0].update(category_id=9)),
            "1 shapes are of category lamp, which is no class of this dataset",
        ),
        (lambda c: c["annotations"][0].update(category_id=77), "1 shapes are of category with id 77, which is no"),
        (
            lambda c: c.update(categories=[{"id": 1, "name": "lamp"}]),
            r"no category \(lamp\) is a class .*: class 0, cl",
        ),
        (
            lambda c: c["annotations"][0]["segmentation"].append([1.0, 2.0, 3.0]),
            "a polygon is not a list of x, y, x, y",
        ),
        (
            lambda c: c["annotations"][0]["segmentation"].append([1.0, 2.0, 3.0, 4.0, 5.0, float("nan")]),
            "a polygon is not",
        ),
        (lambda c: c["images"][0].pop("height"), "cannot be used: no 'height'"),
        (lambda c: c.pop("images"), r"exported\.json: not a COCO file, or one with gaps \(KeyError: 'images'\)"),
    ],
)
def test_coco_files_that_are_refused(change: Callable[[dict[str, Any]], Any], complaint: str) -> None:
    mine()
    command(*options(CELL, 1, "random", "next"))
    with pytest.raises(UserError, match=complaint):
        changed(change)
