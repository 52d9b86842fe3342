"""What check-data and prepare find in a folder, say, refuse and leave out."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from pictures import described, encoded, fill, mask, photo, put
from PIL import Image
from typer.testing import CliRunner

from dualteacher import cli, settings
from dualteacher.data import augment, inspection
from dualteacher.data.pack import Pack
from dualteacher.data.sources.folder import Folder
from dualteacher.stages import classes, download, partition, prepare
from dualteacher.system import files, parallel, paths
from dualteacher.system.errors import UserError

ROOT = Path(__file__).parents[2]
PLACE = paths.Dataset("mine")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path / "photos")


def project(**changes) -> settings.Settings:
    """Settings of a project whose only dataset is the folder `photos`; also written to params.yaml."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["datasets"] = {"mine": described(Path("photos"), **changes).model_dump()}
    params["grid"] |= {"dataset": ["mine"]}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    return settings.load()


def look(code: int = 0) -> str:
    """What `check-data` prints."""
    done = CliRunner().invoke(cli.app, ["check-data"])
    assert done.exit_code == code, done.output
    return done.stdout


def survey(folder: Path, **changes) -> inspection.Survey:
    source = Folder(described(folder, **changes))
    photos, classes = source.look(), source.classes()
    made = inspection.Survey(classes, "error")
    for split in ("val", "train"):
        for checked in inspection.run(photos, split, len(classes), "check"):
            made.add(split, checked)
    made.conclude()
    return made


def texts(made: inspection.Survey, level: str) -> list[str]:
    return [str(finding) for finding in made.findings if finding.level == level]


def test_good_data(folder: Path) -> None:
    project()
    told = look()
    assert (
        "mine: 9 training images (6 with masks); 2 validation images (2 with masks); height×width 20…22×30…31" in told
    )
    assert "warning  validation: only 2 images with masks: scores are noise" in told
    assert "mine: 0 errors, 1 warning\n" in told
    row = next(line.split() for line in told.splitlines() if line.startswith("class 1"))
    assert row[2] == "6" and row[4] == "2" and 30 < float(row[3].rstrip("%")) < 37


def test_errors_are_a_line_each_and_the_exit_code(folder: Path) -> None:
    put(folder / "images/photo00.png", b"nothing")
    put(folder / "masks/photo01.png", mask(1, 5, 5))
    project()
    lines = [line for line in look(code=1).splitlines() if line.startswith("error")]
    assert lines == [
        "error    images/photo00.png: cannot be used: not an image, or damaged",
        "error    masks/photo01.png: the mask is 5×5, the image 21×30",
    ]


def test_prepare_stops_with_the_list_and_writes_nothing(folder: Path) -> None:
    put(folder / "images/photo00.png", b"nothing")
    put(folder / "masks/photo01.png", mask(1, 5, 5))
    params = project()
    download.run(params, "mine")
    with pytest.raises(UserError, match=r"2 errors in the data, nothing written: images/photo00.*; masks/photo01"):
        prepare.run(params, "mine")
    assert [path.name for path in PLACE.folder.iterdir()] == ["raw"]


def test_skip_leaves_out_and_records(folder: Path) -> None:
    put(folder / "images/photo00.png", b"nothing")
    put(folder / "masks/photo01.png", mask(1, 5, 5))
    params = project(on_error="skip")
    download.run(params, "mine")
    prepare.run(params, "mine")
    train, val = Pack(PLACE.train), Pack(PLACE.val)
    assert len(train) + len(val) == 9
    record = json.loads(PLACE.findings.read_text())
    assert sorted(record["skipped"]) == ["images/photo00.png", "images/photo01.png"]
    assert {entry["where"] for entry in record["errors"]} == {"images/photo00.png", "masks/photo01.png"}
    stats = pd.read_parquet(PLACE.stats)
    assert set(stats.image_id) == {i for pack in (train, val) for i in pack.ids if pack.has_mask(pack.index(i))}


def test_new_names_and_colours_change_only_what_is_drawn(folder: Path) -> None:
    found = []
    for names in ("soil", "leaf", "fruit", "nowhere"), ("a", "b", "c", "d"):
        looks = [{"name": name, "color": [len(name), 0, 0], "value": i} for i, name in enumerate(names)]
        params = project(classes=looks)
        download.run(params, "mine")
        prepare.run(params, "mine")
        classes.run(params, "mine")
        partition.run(params, "mine", "full", 0)
        made = [path for path in PLACE.folder.rglob("*") if path.is_file()]
        found.append({str(path.relative_to(PLACE.folder)): files.sha256(path) for path in made})
    assert {"train.arrow", "stats.parquet", "findings.json", "raw/manifest.json"} <= found[0].keys() == found[1].keys()
    assert {path for path in found[0] if found[0][path] != found[1][path]} == {"classes.json", "contact_sheet.png"}
    assert [entry["where"] for entry in json.loads(PLACE.findings.read_text())["warnings"]].count("class 3") == 2
    project(classes=looks[:3])
    with pytest.raises(UserError, match=r"has 4 classes, params\.yaml 3; run the prepare stage"):
        classes.run(settings.load(), "mine")


def test_the_same_folder_gives_the_same_bytes_whatever_the_threads(folder: Path, monkeypatch) -> None:
    params = project()
    download.run(params, "mine")
    outputs = [PLACE.manifest, PLACE.train, PLACE.val, PLACE.stats, PLACE.findings]
    found = []
    for number in (1, 7):
        monkeypatch.setattr(parallel, "cores", lambda number=number: number)
        prepare.run(params, "mine")
        found.append([files.sha256(path) for path in outputs])
    assert found[0] == found[1]


def test_a_picture_in_both_splits_is_an_error_however_it_is_encoded(folder: Path) -> None:
    held_back = Folder(described(folder)).look().entries("val")[0]
    with Image.open(folder / held_back.image) as image:
        put(folder / "images/copy.tif", encoded(image, "TIFF"))
    (error,) = texts(survey(folder), "error")
    assert error == (
        f"images/copy.tif: the same picture as {held_back.image} in validation: scores would be too good; remove one"
    )
    params = project(on_error="skip")
    download.run(params, "mine")
    prepare.run(params, "mine")
    assert json.loads(PLACE.findings.read_text())["skipped"] == ["images/copy.tif"], "the training copy goes"


def test_warnings_do_not_stop(folder: Path) -> None:
    put(folder / "masks/photo01.png", np.full((21, 30), 255, np.uint8))
    put(folder / "images/again.png", photo(9, 20, 30))
    put(folder / "masks/lost.png", mask(0))
    classes = [{"name": f"class {i}", "color": [i, i, i], "value": i} for i in range(4)]
    project(classes=classes)
    told = look()
    for part in (
        "every pixel of the mask is ignored",
        "images/photo09.png: the same picture as images/again.png",
        "masks/lost.png: a mask without an image",
        "class 3: no training mask shows it: it cannot be learned",
        "class 3: no validation mask shows it: its score is undefined",
    ):
        assert f"warning  {part}" in told or part in told


def test_many_warnings_of_one_kind_are_counted(folder: Path) -> None:
    for i in range(20):
        put(folder / f"masks/lost{i:02d}.png", mask(0))
    project()
    told = look().splitlines()
    assert sum("a mask without an image" in line for line in told) == inspection.ALIKE + 1
    assert any("and 15 more like" in line for line in told)
    assert told[-1] == "mine: 0 errors, 21 warnings"


def test_ades_unshifted_zero(folder: Path) -> None:
    for i in range(8):
        put(folder / f"masks/photo{i:02d}.png", mask(i, 20 + i % 3, 31 - i % 2, classes=4))
    errors = texts(survey(folder), "error")
    assert len(errors) > 8
    (text,) = [error for error in errors if error.startswith("all masks")]
    assert text.startswith("all masks: masks hold 0…3 with 3 classes: if 0 means 'other'")
    shifted = [{"name": f"class {i}", "color": [i, i, i], "value": i + 1} for i in range(3)]
    assert texts(survey(folder, classes=shifted, ignore=[0]), "error") == []


def test_masks_of_one_class(folder: Path) -> None:
    for i in range(8):
        put(folder / f"masks/photo{i:02d}.png", np.zeros((20 + i % 3, 31 - i % 2), np.uint8))
    made = survey(folder)
    assert texts(made, "error") == []
    assert sum("cannot be learned" in text for text in texts(made, "warning")) == 2


def test_nothing_left_is_an_error(folder: Path) -> None:
    for i in range(8):
        put(folder / f"images/photo{i:02d}.png", b"nothing")
    params = project(on_error="skip")
    download.run(params, "mine")
    with pytest.raises(UserError, match=r"2 errors.*validation: no usable validation image is left"):
        prepare.run(params, "mine")


@pytest.mark.slow
def test_one_pixel_and_huge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = fill(tmp_path / "photos", labelled=3, without=0)
    put(folder / "images/pixel.png", photo(50, 1, 1))
    put(folder / "masks/pixel.png", mask(50, 1, 1))
    put(folder / "images/huge.png", encoded(Image.new("RGB", (12_000, 9_000), (3, 5, 7)), "PNG", compress_level=1))
    params = project()
    download.run(params, "mine")
    prepare.run(params, "mine")
    train, val = Pack(PLACE.train), Pack(PLACE.val)
    sizes = {pack.size(i) for pack in (train, val) for i in range(len(pack))}
    assert {(1, 1), (9_000, 12_000)} < sizes
    rng, pad = np.random.default_rng(0), np.zeros(3, np.uint8)
    crop = augment.weak((1, 1), lambda least: photo(50, 1, 1), mask(50, 1, 1), params.augment, 32, pad, rng)
    assert crop.image.shape == (32, 32, 3) and (crop.mask != 255).sum() >= 1


def test_results_come_in_order_and_are_not_all_waited_for() -> None:
    taken: list[int] = []

    def jobs():
        for i in range(1000):
            taken.append(i)
            yield lambda i=i: i * i

    results = parallel.ordered(jobs(), workers=3)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(taken) < 20
    results.close()


def test_an_exception_comes_out_in_its_place() -> None:
    def fail() -> int:
        raise ValueError("here")

    results = parallel.ordered([lambda: 1, fail, lambda: 3], workers=2)
    assert next(results) == 1
    with pytest.raises(ValueError, match="here"):
        next(results)


def test_what_is_larger_than_the_budget_still_goes_through() -> None:
    budget = parallel.Budget(100)
    jobs = [lambda amount=amount: _held(budget, amount) for amount in (10, 1000, 50, 99, 100)]
    assert list(parallel.ordered(jobs, workers=4)) == [10, 1000, 50, 99, 100]


def _held(budget: parallel.Budget, amount: int) -> int:
    with budget.hold(amount):
        return amount


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    image, labels = encoded(photo(1, 200, 300), "PNG"), encoded(mask(1, 200, 300), "PNG")

    def peak(number: int) -> int:
        folder = tmp_path / str(number)
        for i in range(number):
            put(folder / f"images/{i:03d}.png", image)
            put(folder / f"masks/{i:03d}.png", labels)
        photos = Folder(described(folder)).look()
        tracemalloc.start()
        for _ in inspection.run(photos, "train", 3, "check"):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(120) < 1.5 * peak(20)


def test_mostly_ignored_masks_are_a_warning(folder: Path) -> None:
    """Black-and-white masks, 0 and 255, where 255 is taken for unknown."""
    for path in (folder / "masks").iterdir():
        with Image.open(path) as opened:
            found = np.asarray(opened)
        put(path, np.where(found == 0, np.uint8(0), np.uint8(255)))
    project(ignore=[255])
    told = look()
    assert "of the masks' pixels are ignored: is one of the ignored values a class?" in told
    assert "mine: 0 errors" in told
