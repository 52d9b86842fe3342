"""`init` understands the folders that annotation tools and challenges write: which mask is whose, and class names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pictures import encoded, mask, photo, put
from PIL import Image

from dualteacher.commands import init, init_params
from dualteacher.data.formats.folder_roles import not_photos, parts_of
from dualteacher.data.sources.folder import Folder

COLORS = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0]], np.uint8)
CLASSES = ("background", "cat", "dog")
ROBOFLOW = "Pixel Value, Class\n0, background\n1, cat\n2, dog\n"
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:200,0,0::\ndog:0,200,0::\n"


class Tool(NamedTuple):
    """pairs: image → mask; others: files in no role; texts: lists of classes; colours: the masks are coloured."""

    pairs: dict[str, str | None]
    others: tuple[str, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    classes: tuple[str, ...] = ("class_0", "class_1", "class_2")
    colours: bool = False


def numbered(image: str, mask: str, number: int = 6, first: int = 1) -> dict[str, str | None]:
    return {image.format(i): mask.format(i) for i in range(first, first + number)}


TOOLS = {
    "Pascal VOC": Tool(
        {**numbered("JPEGImages/a{}.jpg", "SegmentationClass/a{}.png"), "JPEGImages/a90.jpg": None},
        tuple(f"SegmentationObject/a{i}.png" for i in range(1, 7)),
    ),
    "CVAT": Tool(
        numbered("JPEGImages/a{}.jpg", "SegmentationClass/a{}.png"),
        tuple(f"SegmentationObject/a{i}.png" for i in range(1, 7)),
        (("labelmap.txt", LABELMAP),),
        CLASSES,
        colours=True,
    ),
    "labelme2voc": Tool(
        numbered("JPEGImages/a{}.jpg", "SegmentationClass/a{}.png"),
        tuple(f"SegmentationClassVisualization/a{i}.jpg" for i in range(1, 7)),
        (("class_names.txt", "_background_\ncat\ndog\n"),),
        CLASSES,
    ),
    "Supervisely": Tool(
        numbered("ds/img/a{}.jpg", "ds/masks_machine/a{}.png"),
        tuple(f"ds/masks_human/a{i}.png" for i in range(1, 7)),
        (("obj_class_to_machine_color.json", '{"cat": [1, 1, 1], "dog": [2, 2, 2]}'),),
        CLASSES,
    ),
    "Roboflow": Tool(
        numbered("train/p{}_jpg.rf.abc.jpg", "train/p{}_jpg.rf.abc_mask.png")
        | numbered("valid/p{}_jpg.rf.abc.jpg", "valid/p{}_jpg.rf.abc_mask.png", 2, 50),
        (),
        (("train/_classes.csv", ROBOFLOW), ("valid/_classes.csv", ROBOFLOW)),
        CLASSES,
    ),
    "Carvana": Tool(numbered("train/a{}_01.jpg", "train_masks/a{}_01_mask.gif")),
    "nnU-Net": Tool(
        numbered("imagesTr/case_{:03d}_0000.png", "labelsTr/case_{:03d}.png"),
        ("imagesTs/case_090_0000.png", "imagesTr/case_001_0001.png"),
        (("dataset.json", '{"labels": {"background": 0, "cat": 1, "dog": 2}}'),),
        CLASSES,
    ),
    "MMSegmentation": Tool(
        numbered("img_dir/train/{}.jpg", "ann_dir/train/{}.png")
        | numbered("img_dir/val/{}.jpg", "ann_dir/val/{}.png", 2, 50)
    ),
    "prefixes": Tool(numbered("images/image_{}.jpg", "masks/mask_{}.png", 12)),
    "a prefix of the masks": Tool(numbered("images/{}.jpg", "masks/mask_{}.png", 12)),
    "DeepGlobe": Tool(numbered("{}_sat.jpg", "{}_mask.png")),
    "Cityscapes-like": Tool(numbered("images/a/{}_leftImg8bit.png", "gt/a/{}_gtFine_labelIds.png")),
    "the image's whole name": Tool(
        numbered("images/a{}.jpg", "masks/a{}.jpg.png", 3) | numbered("images/b{}.png", "masks/b{}.png.png", 3)
    ),
    "coloured masks and overlays beside": Tool(
        numbered("a{}.jpg", "masks/a{}.png"), ("masks_color/a1.png", "overlay/a1.jpg", "vis/a1.jpg")
    ),
    "coloured masks alone": Tool(numbered("images/a{}.jpg", "color_masks/a{}.png"), colours=True),
    "scenes": Tool(
        {f"scene{s}/images/{i}.jpg": f"scene{s}/masks/{i}.png" if i else None for s in range(1, 8) for i in range(3)}
    ),
    "scenes of two splits": Tool(
        {
            f"{split}/s{s}/rgb/image/{i}.png": f"{split}/s{s}/gt/{i}.png"
            for split in ("train", "val")
            for s in range(3)
            for i in (s, s + 1)
        }
    ),
    "photos in the scenes themselves": Tool(
        {f"scene{s}/{i}.jpg": f"scene{s}/masks/{i}.png" for s in range(3) for i in range(3)}
    ),
    "a logo at the top": Tool(numbered("images/a{}.jpg", "masks/a{}.png"), ("logo.png",)),
}


def write(folder: Path, tool: Tool) -> None:
    for i, (image, its_mask) in enumerate(tool.pairs.items()):
        put(folder / image, encoded(photo(i), "PNG" if image.endswith("png") else "JPEG"))
        if its_mask:
            values = mask(i)
            data = COLORS[values] if tool.colours else values
            put(folder / its_mask, encoded(data, "GIF") if its_mask.endswith("gif") else data)
    for name in tool.others:
        put(folder / name, photo(7))
    for name, text in tool.texts:
        put(folder / name, text.encode())


@pytest.mark.parametrize("name", TOOLS)
def test_pairs_and_classes(tmp_path: Path, name: str) -> None:
    tool = TOOLS[name]
    write(tmp_path, tool)
    described, told = init.describe(tmp_path)
    content = Folder(init.valid(tmp_path, described)).look()
    pairs = {entry.image: entry.mask for split in ("train", "val") for entry in content.entries(split)}  # type: ignore[arg-type]
    assert pairs == tool.pairs
    assert [entry["name"] for entry in described["classes"]] == list(tool.classes)
    values: list[Any] = COLORS.tolist() if tool.colours else [0, 1, 2]
    found = [entry["value"] for entry in described["classes"]]
    assert found == values or (tool.classes[0] == "class_0" and sorted(found) == sorted(values))
    counts = [re.fullmatch(r"not used: (?:images|masks, overlays and the like): (\d+) .*", line) for line in told]
    assert sum(int(found[1]) for found in counts if found) == len(tool.others)
    again = init_params._text(name="x", wanted=init.valid(tmp_path, described), values={})
    assert all(f"{key}: " in again for key in init_params.AFFIXES if described[key])


@pytest.mark.parametrize(
    "word, expected",
    [
        ("train_masks", ("masks", "train")),
        ("labelsTr", ("labels", "train")),
        ("imagesTs", ("images", "test")),
        ("val", ("", "validation")),
        ("valley", ("valley", None)),
        ("stamps", ("stamps", None)),
    ],
)
def test_splits_in_folder_names(word: str, expected: tuple[str, str | None]) -> None:
    assert parts_of(word) == expected


def test_what_is_no_photo_beside_photos() -> None:
    made = ["masks/a.png", "overlays/b.jpg", "c_mask.png", "SegmentationObject/c.png", "d_overlay.jpg"]
    photos = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "labels/bottle1.jpg", "labels/bottle2.jpg", "x_mask.jpg"]
    assert not_photos([*photos, *made]) == sorted(made), "labels/ holds other pictures, of bottles"
    assert not_photos(["masks/a.png", "masks/b.png"]) == [], "nothing else: as asked for"
    assert not_photos(["imagesTr/case_001_0000.png", "labelsTr/case_001.png"]) == ["labelsTr/case_001.png"]


def test_a_palette_gif_of_two_classes(tmp_path: Path) -> None:
    for i in range(4):
        put(tmp_path / f"train/{i}.jpg", encoded(photo(i), "JPEG"))
        bits = Image.fromarray((mask(i, classes=2) * 255).astype(np.uint8))
        put(tmp_path / f"train_masks/{i}_mask.gif", encoded(bits, "GIF"))
    described, _ = init.describe(tmp_path)
    content = Folder(init.valid(tmp_path, described)).look()
    checked = [job() for job in content.jobs("train")]
    total = sum(item.pixels[:2] for item in checked)
    names = [Path(item.where).stem for item in checked]
    expected = sum(np.bincount(mask(int(name), classes=2).ravel(), minlength=2) for name in names)
    assert (total == expected).all()
