"""Masks whose palettes differ, or whose first file shows no colour: their meaning is decided from all of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from own_project import project  # noqa: F401
from pictures import encoded, photo, put
from PIL import Image
from typer.testing import CliRunner

from dualteacher import cli, settings
from dualteacher.data.pack import Pack
from dualteacher.stages import download, prepare
from dualteacher.system import paths
from dualteacher.system.errors import UserError

ROOT = Path(__file__).parents[2]
COLORS = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0]], np.uint8)
FOLDER = Path("own_data/mine")


def drawn(i: int) -> np.ndarray:
    """Areas of classes 0…2; every third mask shows only two of them."""
    mask = np.zeros((20, 31), np.uint8)
    mask[3 + i % 4 : 9, 4:10] = 0 if i % 3 == 1 else 1
    mask[10:17, 12 + i % 5 : 25] = 2
    return mask


def optimised(mask: np.ndarray, by_number: bool) -> Image.Image:
    """A palette of only the colours that occur, the most frequent first, as image optimisers write it."""
    present, number = np.unique(mask, return_counts=True)
    order = present[np.argsort(-number, kind="stable")] if by_number else present
    place = np.zeros(256, np.uint8)
    place[order] = np.arange(len(order))
    image = Image.fromarray(place[mask])
    image.putpalette(COLORS[order].tobytes())
    return image


def fill(kind: str = "PNG") -> None:
    for i in range(9):
        put(FOLDER / f"images/{i}.png", photo(i))
        put(FOLDER / f"masks/{i}.{kind.lower()}", encoded(optimised(drawn(i), bool(i % 2)), kind))


def init(*options: str) -> tuple[settings.Folder, str]:
    done = CliRunner().invoke(cli.app, ["init", "--force", *options, str(FOLDER)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    dataset = settings.load().datasets["mine"]
    assert isinstance(dataset, settings.Folder)
    return dataset, done.stdout


def check(code: int) -> str:
    done = CliRunner().invoke(cli.app, ["check-data"])
    assert done.exit_code == code, done.output
    return done.stdout


def prepared() -> dict[str, np.ndarray]:
    """Class indices of every image."""
    loaded = settings.load()
    download.run(loaded, "mine")
    prepare.run(loaded, "mine")
    packs = [Pack(paths.Dataset("mine").train), Pack(paths.Dataset("mine").val)]
    found = {pack.ids[i]: pack.mask(i) for pack in packs for i in range(len(pack))}
    assert len(found) == 9
    return {name: mask for name, mask in found.items() if mask is not None}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_palettes_that_differ_are_read_by_colour(kind: str) -> None:
    fill(kind)
    dataset, told = init()
    values = [entry.value for entry in dataset.classes]
    assert values == COLORS.tolist(), "in the order of a palette that has them all"
    assert "told apart by colour, not by index, since their palettes differ (index 1 is [" in told
    check(0)
    for name, mask in prepared().items():
        np.testing.assert_array_equal(mask, drawn(int(name[-1])), err_msg=name)


def test_names_go_with_colours_where_palettes_differ() -> None:
    fill()
    put(FOLDER / "classes.txt", b"soil\ncat\ndog\n")
    with pytest.raises(UserError, match=r"classes\.txt: the masks' palettes differ .*every class needs a colour"):
        init()
    named = [{"name": n, "value": i, "color": COLORS[i].tolist()} for i, n in enumerate(["soil", "cat", "dog"])]
    put(FOLDER / "classes.json", json.dumps(named).encode())
    dataset, _ = init()
    assert [(e.name, e.value) for e in dataset.classes] == list(
        zip(["soil", "cat", "dog"], COLORS.tolist(), strict=True)
    )
    for name, mask in prepared().items():
        np.testing.assert_array_equal(mask, drawn(int(name[-1])), err_msg=name)


def test_indices_of_differing_palettes_are_an_error() -> None:
    fill()
    init()
    params = yaml.safe_load(Path("params.yaml").read_text())
    for index, entry in enumerate(params["datasets"]["mine"]["classes"]):
        entry["value"] = index
    params["datasets"]["mine"]["ignore"] = []
    Path("params.yaml").write_text(yaml.safe_dump(params))
    (line,) = [line for line in check(1).splitlines() if line.startswith("error")]
    assert line.startswith("error    all masks: palettes differ: index 1 is [")
    download.run(settings.load(), "mine")
    with pytest.raises(UserError, match=r"nothing written: all masks: palettes differ: index 1 is \["):
        prepare.run(settings.load(), "mine")


def test_palettes_that_agree_are_indices_though_each_is_cut_to_what_it_needs() -> None:
    for i in range(9):
        mask = np.minimum(drawn(i), i % 3)
        image = Image.fromarray(mask)
        image.putpalette(COLORS[: mask.max() + 1].tobytes())
        put(FOLDER / f"images/{i}.png", photo(i))
        put(FOLDER / f"masks/{i}.png", encoded(image, "PNG"))
    put(FOLDER / "masks/3.png", drawn(3))  # an editor dropped the palette
    for i, void in ((1, [255, 255, 255]), (2, [224, 224, 192])):  # 255 is no class, in whatever colour
        border = np.where(drawn(i) == 2, np.uint8(255), drawn(i))
        image = Image.fromarray(border)
        image.putpalette(np.concatenate([COLORS, np.tile(np.array(void, np.uint8), (253, 1))]).tobytes())
        put(FOLDER / f"masks/{i}.png", encoded(image, "PNG"))
    ramp = Image.fromarray(drawn(4))
    ramp.putpalette(np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
    put(FOLDER / "masks/4.png", encoded(ramp, "PNG"))
    dataset, _ = init()
    assert [(entry.value, entry.color) for entry in dataset.classes] == list(enumerate(COLORS.tolist()))
    check(0)


def test_a_mask_without_palette_among_differing_ones_is_refused() -> None:
    fill()
    put(FOLDER / "masks/5.png", drawn(5))
    with pytest.raises(
        UserError, match=r"palettes differ \(index 1 .* but masks/5\.png has none: save all masks alike"
    ):
        init()


@pytest.mark.parametrize("background", ["RGB", "L", "palette"])
def test_colour_masks_whose_first_shows_only_background(background: str) -> None:
    for i in range(9):
        mask = drawn(i) if i > 3 else np.zeros((20, 31), np.uint8)
        image = Image.fromarray(COLORS[mask])
        if i <= 3 and background != "RGB":
            image = image.convert("L" if background == "L" else "P")
        put(FOLDER / f"images/{i}.png", photo(i))
        put(FOLDER / f"masks/{i}.png", encoded(image, "PNG"))
    dataset, told = init()
    assert [entry.value for entry in dataset.classes] == [[0, 0, 0], [0, 200, 0], [200, 0, 0]]
    assert "masks: 3 colours, each taken as a class" in told
    assert "class names: class_0, … are placeholders" in told
    check(0)


def test_a_photo_among_index_masks_does_not_make_them_colours() -> None:
    for i in range(9):
        put(FOLDER / f"images/{i}.png", photo(i))
        put(FOLDER / f"masks/{i}.png", drawn(i) if i else photo(i))
    dataset, told = init()
    assert [entry.value for entry in dataset.classes] == [0, 1, 2]
    assert "1 masks cannot be used, the first is masks/0.png (more than 256 colours)" in told
    assert "masks/0.png: " in check(1)
