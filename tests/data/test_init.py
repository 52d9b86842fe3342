"""`init` understands usual folders, writes settings that work, says what it assumed, and overwrites nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from own_project import project  # noqa: F401
from pictures import encoded, fill, mask, photo, png16, put, tiff
from PIL import Image
from typer.testing import CliRunner

from dualteacher import cli, settings
from dualteacher.data.sources.folder import Folder
from dualteacher.system.errors import UserError
from dualteacher.workflow import engines, presets

ROOT = Path(__file__).parents[2]


def made(folder: Path | str, *options: str, code: int = 0) -> tuple[settings.Folder, str]:
    """(the dataset's settings that `init` wrote, what it said)."""
    done = CliRunner().invoke(cli.app, ["init", *options, "--", str(folder)])
    assert done.exit_code == code, done.output
    (dataset,) = settings.load().datasets.values()
    assert isinstance(dataset, settings.Folder)
    return dataset, done.stdout


def refused(folder: Path, *options: str) -> str:
    """The complaint; params.yaml is as before."""
    before = Path("params.yaml").read_bytes()
    with pytest.raises(UserError) as caught:
        CliRunner().invoke(cli.app, ["init", *options, str(folder)], catch_exceptions=False)
    assert Path("params.yaml").read_bytes() == before and "\n" not in str(caught.value)
    return str(caught.value)


def labelled(dataset: settings.Folder) -> dict[str, str | None]:
    """Mask of every image."""
    photos = Folder(dataset).look()
    return {item.image: item.mask for split in ("train", "val") for item in photos.entries(split)}


def test_settings_that_work_and_what_was_assumed() -> None:
    fill(Path("own_data/Garden 2"), labelled=10, without=5)
    put(Path("own_data/Garden 2/classes.txt"), b"soil\nleaf\nflower\n")
    dataset, told = made("own_data/Garden 2")
    loaded = settings.load()
    assert (loaded.grid.dataset, loaded.grid.partition, loaded.grid.seed) == (["garden_2"], ["all"], [0])
    assert loaded.grid.method == ["supervised", "dual_teacher"]
    assert (dataset.folder, loaded.watched) == ("own_data/Garden 2", "own_data")
    assert [entry.name for entry in dataset.classes] == ["soil", "leaf", "flower"]
    assert [entry.value for entry in dataset.classes] == [0, 1, 2] and dataset.ignore == [255]
    assert (loaded.batch.crop, loaded.augment.resize) == (32, None), "small images are taken as they are"
    for part in (
        "images: images; masks: masks/NAME.*",
        "training: 8 images with masks, 5 without",
        "validation: 2 images (20% of the images with masks, chosen by name hash)",
        "masks: values 0…2; classes.txt names 0…2 in this order",
        "rarest class: ",
        "presets/few-labels.yaml: frozen batch statistics",
        "height 20…22, width 30…31 pixels",
    ):
        assert part in told
    assert "placeholders" not in told, "the names are classes.txt's"
    kept = presets.load("few-labels", ROOT / "presets")
    written = yaml.safe_load(Path("params.yaml").read_text())
    assert {key: written[key] for key in ("model", "mixing", "loss", "optimizer", "methods")} == {
        key: kept[key] for key in ("model", "mixing", "loss", "optimizer", "methods")
    }
    assert "# strong augmentation of unlabelled images, on the device" in Path("params.yaml").read_text(), (
        "comments stay"
    )


def test_edited_settings_are_only_replaced_when_asked() -> None:
    folder = fill(Path("own_data/mine"))
    made(folder)
    assert Path("params.yaml.bak").read_text(encoding="utf-8") == presets.text("bluemarble")
    made(folder, "--quick")  # its own words it may replace
    edited = Path("params.yaml").read_text().replace("seed: [0]", "seed: [0, 1]")
    Path("params.yaml").write_text(edited)
    assert "--force" in refused(folder)
    made(folder, "--force")
    assert Path("params.yaml.bak").read_text() == edited
    made(folder)
    assert Path("params.yaml.bak").read_text() == edited, "the same settings again replace nothing"


def test_a_folder_elsewhere_is_watched_where_it_is(tmp_path: Path) -> None:
    folder = fill(tmp_path / "else where")
    dataset, _ = made(folder)
    assert dataset.folder == settings.load().watched == str(folder)
    link = Path("own_data/link")
    link.parent.mkdir()
    link.symlink_to(folder)
    dataset, _ = made(link, "--force", "--name", "linked")
    assert dataset.folder == settings.load().watched == "own_data/link", "own_data would not show what is behind it"
    assert settings.load().grid.dataset == ["linked"]


LAYOUTS = {
    "folders for each split": {
        **{f"train/images/{i}.jpg": f"train/masks/{i}.png" for i in range(3)},
        **{f"val/images/{i}.jpg": f"val/masks/{i}.png" for i in range(2)},
        "unlabeled/x.jpg": None,
    },
    "splits in folders": {
        **{f"img/train/{i}.jpg": f"labels/train/{i}.png" for i in range(3)},
        **{f"img/test/{i}.jpg": f"labels/test/{i}.png" for i in range(2)},
    },
    "masks beside images": {**{f"{i}.jpg": f"{i}_mask.png" for i in range(4)}, "4.jpg": None},
    "masks in a sub-folder": {**{f"{i}.jpg": f"masks/{i}.png" for i in range(4)}, "4.jpg": None},
    "a room called pool": {
        f"images/{room}/{i}.jpg": f"masks/{room}/{i}.png" for room in ("kitchen", "pool", "extra") for i in range(3)
    },
    "rooms at the top": {f"{room}/{i}.jpg": f"{room}/{i}_mask.png" for room in ("kitchen", "pool") for i in range(3)},
    "rooms of photos at the top": {
        f"{room}/{i}.jpg": f"masks/{room}/{i}.png" for room in ("kitchen", "pool") for i in range(3)
    },
    "unlabelled beside images": {
        **{f"train/images/{i}.jpg": f"train/masks/{i}.png" for i in range(3)},
        **{f"train/unlabelled/{i}.jpg": None for i in range(2)},
    },
    "a folder around all whose name means masks": {
        f"segmentation/images/{i}.jpg": f"segmentation/masks/{i}.png" for i in range(4)
    },
    "and one whose name means unlabelled": {f"pool/photos/{i}.jpg": f"pool/masks/{i}.png" for i in range(4)},
    "a suffix and sub-folders": {
        f"leftImg8bit/{city}/{i}.jpg": f"gtFine/{city}/{i}_gt_ids.png" for city in ("a", "b") for i in range(3)
    },
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str) -> None:
    folder = Path("own_data/mine")
    for i, (image, its_mask) in enumerate(LAYOUTS[name].items()):
        put(folder / image, encoded(photo(i), "JPEG"))
        if its_mask:
            put(folder / its_mask, mask(i))
    dataset, told = made(folder)
    assert labelled(dataset) == LAYOUTS[name]
    assert (dataset.validation.images is not None) == ("split" in name)
    assert "not used" not in told


@pytest.mark.parametrize(
    "values, names, expected, ignore",
    [
        ([0, 1, 2], None, [("class_0", 0), ("class_1", 1), ("class_2", 2)], [255]),
        ([0, 255], None, [("class_0", 0), ("class_255", 255)], []),
        ([0, 1, 2, 255], '["a", "b", "c", "d"]', [("a", 0), ("b", 1), ("c", 2), ("d", 3)], [255]),
        ([0, 1, 2], '["a", "b"]', [("a", 1), ("b", 2)], [0]),
        ([0, 85, 170], '["a", "b", "c"]', [("a", 0), ("b", 85), ("c", 170)], [255]),
        ([0, 255], '["off", "on"]', [("off", 0), ("on", 255)], []),
        ([3, 7, 9], '{"tree": 7, "sky": 3}', [("tree", 7), ("sky", 3)], [9]),
        ([0, 1], '[{"name": "a", "color": [9, 8, 7]}, {"name": "b"}]', [("a", 0), ("b", 1)], [255]),
    ],
)
def test_how_masks_spell_classes(values: list[int], names: str | None, expected: list, ignore: list[int]) -> None:
    folder = Path("own_data/mine")
    for i in range(4):
        put(folder / f"images/{i}.png", photo(i))
        put(folder / f"masks/{i}.png", np.array(values, np.uint8)[mask(i, classes=len(values))])
    if names:
        put(folder / "classes.json", names.encode())
    dataset, _ = made(folder)
    assert [(entry.name, entry.value) for entry in dataset.classes] == expected
    assert dataset.ignore == ignore
    assert len({tuple(entry.color) for entry in dataset.classes}) == len(expected), "colours can be told apart"


def test_coloured_masks_and_palettes() -> None:
    colors = np.array([[200, 0, 0], [0, 0, 0], [0, 0, 250]], np.uint8)
    coloured, paletted = Path("own_data/coloured"), Path("own_data/paletted")
    for i in range(3):
        put(coloured / f"images/{i}.png", photo(i))
        put(coloured / f"masks/{i}.png", colors[mask(i)])
        put(paletted / f"images/{i}.png", photo(i))
        image = Image.fromarray(mask(i))
        image.putpalette(colors.tobytes())
        put(paletted / f"masks/{i}.png", encoded(image, "PNG"))
    dataset, told = made(coloured)
    assert [entry.value for entry in dataset.classes] == sorted(colors.tolist())
    assert "3 colours" in told
    named = [{"name": "blue", "color": [0, 0, 250]}, {"name": "red", "color": [200, 0, 0]}]
    put(coloured / "classes.json", json.dumps(named).encode())
    dataset, _ = made(coloured, "--force")
    assert [entry.name for entry in dataset.classes] == ["blue", "red"] and dataset.ignore == [[0, 0, 0]]
    put(coloured / "classes.json", b'["blue", "red", "black"]')
    assert "every class needs a colour" in refused(coloured, "--force")
    dataset, _ = made(paletted, "--force")
    assert [(entry.value, entry.color) for entry in dataset.classes] == list(enumerate(colors.tolist()))


def test_what_cannot_be_understood_is_refused() -> None:
    folder = Path("own_data/mine")
    assert "no such folder" in refused(folder)
    folder.mkdir(parents=True)
    assert "no images found" in refused(folder)
    put(folder / "images/a.png", photo(1))
    assert "no masks found" in refused(folder)
    put(folder / "masks/b.png", mask(1))
    assert "no masks found that are named like the images" in refused(folder)
    put(folder / "masks/a.png", mask(1))
    assert "1 images with masks" in refused(folder)
    for i in range(3):
        put(folder / f"images/{i}.png", photo(i))
        put(folder / f"masks/{i}.png", np.zeros((20, 31), np.uint8))
    (folder / "masks/a.png").unlink()
    assert "the masks show only one class, value 0; at least two classes are needed" in refused(folder)
    put(folder / "masks/0.png", photo(0))
    assert "0.png" in refused(folder) or "colours" in refused(folder)
    put(folder / "masks/0.png", np.arange(620, dtype=np.uint16).reshape(20, 31))
    assert "more than 255 values" in refused(folder)
    put(folder / "masks/0.png", mask(0))
    put(folder / "classes.json", b"{")
    assert "classes.json cannot be read" in refused(folder)
    put(folder / "classes.json", b'["one", "two", "three", "four", "four"]')
    assert "the name four twice" in refused(folder)


def test_masks_of_lossy_compression_are_refused() -> None:
    folder = fill(Path("photos"))
    put(folder / "masks" / "photo00.jpg", encoded(mask(0), "JPEG"))
    (folder / "masks" / "photo00.png").unlink()
    assert "masks/photo00.jpg is a JPEG, whose compression changes class values" in refused(folder)


def test_a_machine_with_a_gpu_and_large_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "gpus", lambda device: 1)
    folder = Path("own_data/mine")
    for i in range(3):
        put(folder / f"images/{i}.jpg", encoded(Image.new("RGB", (1600, 1200), (i, 0, 0)), "JPEG"))
        put(folder / f"masks/{i}.png", mask(i, 1200, 1600))
    made(folder)
    loaded = settings.load()
    assert loaded.batch.crop == 512
    assert loaded.augment.resize == loaded.inference.resize == [2560, 640]
    assert loaded.grid.method == ["supervised"], "no image without a mask"
    made(folder, "--force", "--quick")
    assert settings.load().batch.crop == 64 and settings.load().train.steps == 20


def test_hostile_folder_names(tmp_path: Path) -> None:
    for i, name in enumerate(('it\'s "here": #1', "-rf", "{x}", "写真", "null")):
        dataset, _ = made(fill(tmp_path / name, labelled=2), "--force")
        assert dataset.folder == str(tmp_path / name), i


def test_predictions_and_thumbnails_are_counted_and_not_used() -> None:
    folder = fill(Path("own_data/mine"))
    expected = labelled(made(folder)[0])
    for name in ("predictions/masks/photo09.png", "predictions/overlays/photo09.png", "thumbnails/photo01.png"):
        put(folder / name, mask(9))
    dataset, told = made(folder, "--force")
    assert labelled(dataset) == expected
    assert "not used: masks, overlays and the like: 3 (.png; for example predictions/masks/photo09.png)" in told


def test_earlier_outputs_in_the_folder_are_neither_photos_nor_masks() -> None:
    folder = fill(Path("own_data/outputs"))
    expected = labelled(made(folder)[0])
    for kind in ("masks", "overlays"):
        put(folder / f"predictions/{kind}/photo09.png", mask(9))
    put(folder / "predictions/done.jsonl", b"")
    put(folder / "images/next/images/photo08.png", photo(8))
    put(folder / "images/next/suggest.json", b"{}")
    dataset, told = made(folder, "--force")
    assert labelled(dataset) == expected and "not used" not in told
    put(folder / "more/done.jsonl", b"")
    done = CliRunner().invoke(cli.app, ["init", "--force", str(folder)])
    assert "own_data/outputs/more: skipped, as `predict` or `suggest` wrote it" in done.output


def test_numbers_of_objects_and_one_class_too_many_are_said_in_words() -> None:
    folder = Path("own_data/mine")
    for i in range(4):
        put(folder / f"images/{i}.png", photo(i))
        put(folder / f"masks/{i}.png", np.array([0, 24001, 24002], np.uint16)[mask(i)])
    dataset, told = made(folder)
    assert [entry.value for entry in dataset.classes] == [0, 24001, 24002]
    assert "masks: values up to 24002: if they number objects, save masks of classes instead" in told
    put(folder / "masks/0.png", (np.arange(620) % 256 * 2).astype(np.uint16).reshape(20, 31))
    assert "so they are not class masks: perhaps they number objects" in refused(folder, "--force")


def test_masks_in_the_transparency_are_said_in_words() -> None:
    folder = Path("own_data/mine")
    for i in range(4):
        shown = np.full((20, 31, 4), 255, np.uint8)
        shown[..., 3] = np.where(mask(i) > 0, 255, 0)
        put(folder / f"images/{i}.png", photo(i))
        put(folder / f"masks/{i}.png", shown)
    assert "masks/0.png (shows its classes in the transparency (alpha) channel alone: save that ch" in refused(folder)


@pytest.mark.parametrize(
    ("values", "names", "expected", "ignore"),
    [
        ([-9999, 0, 1, 2], None, [0, 1, 2], [255, -9999]),
        ([-1, 1, 2, 32767], None, [1, 2], [255, -1, 32767]),
        ([-9999, 0, 1], '["off", "on"]', [0, 1], [255, -9999]),
        ([-1, 0, 1], '{"water": -1, "land": 0}', [-1, 0], [1]),
        ([0, 32767], None, [0, 32767], [255]),
    ],
)
def test_no_data_of_gis_programs_is_no_class(
    values: list[int], names: str | None, expected: list, ignore: list
) -> None:
    folder = Path("own_data/mine")
    for i in range(4):
        stored = np.array(values, np.int16)[mask(i, classes=len(values))]
        put(folder / f"images/{i}.png", photo(i))
        tifffile.imwrite(put(folder / f"masks/{i}.tif", b""), stored, photometric="minisblack")
    if names:
        put(folder / "classes.json", names.encode())
    dataset, told = made(folder)
    assert [entry.value for entry in dataset.classes] == expected and dataset.ignore == ignore
    assert ("taken for no data" in told) == bool({-1, -9999, 32767} & set(ignore))


def multiband(folder: Path, bands: int, dtype: type, **options: Any) -> Path:
    for i in range(4):
        values = np.random.default_rng(i).integers(0, 200, (20, 31, bands)).astype(dtype)
        put(folder / f"images/{i}.tif", tiff(values, planarconfig="contig", **options))
        put(folder / f"masks/{i}.png", mask(i))
    return folder


@pytest.mark.parametrize(
    "bands, dtype, options, expected",
    [
        (4, np.uint8, {"photometric": "rgb", "extrasamples": ["unspecified"]}, ([1, 2, 3, 4], True, "dtype")),
        (4, np.uint16, {"photometric": "rgb", "extrasamples": ["unassalpha"]}, (None, True, "percentile")),
        (13, np.uint16, {"photometric": "minisblack"}, (list(range(1, 14)), False, "percentile")),
        (2, np.float32, {"photometric": "minisblack"}, ([1, 2], False, "percentile")),
        (3, np.uint8, {"photometric": "rgb"}, (None, True, "dtype")),
    ],
)
def test_bands_and_deep_values_are_taken_and_said(
    bands: int, dtype: type, options: dict[str, Any], expected: tuple[list[int] | None, bool, str]
) -> None:
    dataset, told = made(multiband(Path("own_data/field"), bands, dtype, **options))
    assert (dataset.bands, dataset.rgb, dataset.range) == expected
    assert (f"bands: {bands} in each image" in told) == (expected[0] is not None)
    assert ("range: percentile" in told) == (expected[2] == "percentile")
    assert Folder(dataset).look().channels.count == len(expected[0] or "RGB")


def test_bands_that_are_pictures_of_their_own_are_taken() -> None:
    for i in range(4):
        put(Path(f"own_data/field/images/{i}.tif"), tiff(np.zeros((3, 20, 31), np.uint8), photometric="minisblack"))
        put(Path(f"own_data/field/masks/{i}.png"), mask(i))
    dataset, _ = made(Path("own_data/field"))
    assert (dataset.bands, dataset.rgb) == ([1, 2, 3], False)


def test_bands_that_differ_by_image_are_read_as_rgb_and_16_bit_png_gets_a_range() -> None:
    folder = multiband(Path("own_data/field"), 4, np.uint8, photometric="rgb", extrasamples=["unspecified"])
    (folder / "images/3.tif").unlink()
    put(folder / "images/3.png", png16(np.zeros((20, 31, 3), np.uint16)))
    dataset, told = made(folder)
    assert (dataset.bands, dataset.range) == (None, "percentile")
    assert "bands: 3, 4, differing by image" in told and "1 of 4 images hold more than 8 bits" in told
