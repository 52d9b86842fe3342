"""The page's parts: what a run's sheet says, which pictures a gallery holds, where published numbers stand."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from results_tree import CLASSES  # type: ignore[import-not-found]

from dualteacher import settings
from dualteacher.evaluation import gallery
from dualteacher.reporting import figure_names, results
from dualteacher.reporting.page import build, runs
from dualteacher.reporting.page import gallery as page_gallery
from dualteacher.system import paths


@pytest.fixture
def loaded(made: Path, monkeypatch: pytest.MonkeyPatch) -> results.Results:
    monkeypatch.chdir(made)
    return results.load(settings.load())


HEADINGS = {("bluemarble", "eighth"): ""}


def test_a_sheet_has_a_runs_parameters_hashes_commands_and_the_end_of_its_log(loaded: results.Results) -> None:
    sheets = {sheet.target: sheet for sheet in runs.sheets(loaded)}
    assert len(sheets) == len(loaded.runs) == 6
    sheet = sheets["run-bluemarble-eighth-dual_teacher-1"]
    assert "period: 1" in sheet.parameters and "learning_rate: 0.0002" in sheet.parameters
    assert ("weights", "c4" * 32) in sheet.hashes and ("all images", "c0" * 32) in sheet.hashes
    assert sheet.commands[0].endswith("train --dataset bluemarble --partition eighth --method dual_teacher --seed 1")
    (path, text), (_, absent) = sheet.logs
    assert path == "logs/train/bluemarble-eighth-dual_teacher-1.log" and absent == ""
    assert text.splitlines()[-1].endswith("step 40/40 <b>") and len(text.splitlines()) == runs.TAIL
    assert sheet.changed == []


def test_a_sheet_says_where_params_yaml_is_no_longer_what_the_run_had(loaded: results.Results) -> None:
    steps = loaded.settings.train.model_copy(update={"steps": 777})
    method = loaded.settings.methods["dual_teacher"].model_copy(update={"ema_decay": 0.5})
    methods = loaded.settings.methods | {"dual_teacher": method}
    later = replace(loaded, settings=loaded.settings.model_copy(update={"train": steps, "methods": methods}))
    changed = {sheet.target: sheet.changed for sheet in runs.sheets(later)}
    assert changed["run-bluemarble-eighth-supervised-0"] == ["train.steps: 300, now 777"]
    assert "method.ema_decay: 0.99, now 0.5" in changed["run-bluemarble-eighth-dual_teacher-0"]


def test_the_precision_that_auto_chose_is_no_change(loaded: results.Results) -> None:
    cell = {"cell": ["bluemarble", "eighth", "supervised", 0], "runtime": {"precision": "float32", "threads": 99}}
    told = {}
    for precision in ("auto", "bfloat16"):
        runtime = loaded.settings.runtime.model_copy(update={"precision": precision})
        later = replace(loaded, settings=loaded.settings.model_copy(update={"runtime": runtime}))
        told[precision] = runs._changed(cell, later)
    threads = f"runtime.threads: 99, now {loaded.settings.runtime.threads}"
    assert told == {"auto": [threads], "bfloat16": ["runtime.precision: float32, now bfloat16", threads]}


def test_a_log_cannot_break_or_bloat_the_page(made: Path, tmp_path: Path) -> None:
    text = (made / "results/report/index.html").read_text(encoding="utf-8")
    assert "step 40/40 &lt;b&gt;" in text and "step 40/40 <b>" not in text
    (tmp_path / "log").write_bytes(b"\xff\x00" * 100_000 + b"10 %\r20 %\r")
    assert len(runs.tail(tmp_path / "log")) <= runs.LONGEST
    assert runs.tail(tmp_path / "log").endswith("10 %\n20 %")


def test_galleries_give_way_to_the_pages_size_second_seeds_first(
    loaded: results.Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = page_gallery.galleries(loaded, HEADINGS)[0]
    assert [len(runs) for _, runs in made.runs] == [2, 2, 2] and not made.left_out
    first = loaded.runs[0].pictures
    needed = sum(map(len, first["image"])) * 4 // 3 + sum(
        2 * sum(map(len, run.pictures["prediction"])) for run in loaded.runs if run.cell.seed == 0
    )
    monkeypatch.setattr(page_gallery, "BUDGET", needed)
    made = page_gallery.galleries(loaded, HEADINGS)[0]
    assert [[seed for _, seed in runs] for _, runs in made.runs] == [["seed 0"]] * 3
    assert made.left_out == [run.cell.gallery.as_posix() for run in loaded.runs if run.cell.seed == 1]


def test_a_picture_is_embedded_once_and_its_errors_are_the_wrong_pixels(loaded: results.Results) -> None:
    picture = page_gallery.galleries(loaded, HEADINGS)[0].pictures[1]
    assert picture.name == "tile 1" and (picture.width, picture.height) == (48, 48)
    assert picture.content.count("%") == 3
    row = loaded.runs[0].pictures.iloc[1]
    truth, prediction = (page_gallery._indices(row[name]) for name in ("truth", "prediction"))
    wrong = (truth != prediction) & (truth != len(CLASSES))
    assert 0 < wrong.mean() < 0.5 and (truth[:3] == len(CLASSES)).all()
    with Image.open(io.BytesIO(page_gallery._errors(wrong))) as drawn:
        assert np.array_equal(np.asarray(drawn.convert("RGBA"))[..., 3] > 0, wrong)
    assert picture.layers[0].score == f"{100 * (1 - wrong[3:].mean()):.0f} % correct"


def test_stored_masks_are_coloured_small_and_exact(tmp_path: Path) -> None:
    image = np.full((600, 900, 3), 99, np.uint8)
    truth = np.arange(900, dtype=np.uint8)[None].repeat(600, 0) // 255
    truth[:6] = 255
    prediction = np.zeros_like(truth)
    for name in ("a", "b"):
        gallery.save(["x"], [(image, truth, prediction)], CLASSES, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    row = pd.read_parquet(tmp_path / "a").iloc[0]
    assert row["right"] == pytest.approx((truth == prediction)[6:].mean())
    with Image.open(io.BytesIO(row["truth"])) as mask:
        assert max(mask.size) == gallery.SIDE
        assert np.unique(np.asarray(mask)[3:]).tolist() == np.unique(truth[6:]).tolist()
        colours = np.asarray(mask.convert("RGBA"))
        assert tuple(colours[-1, 0]) == (*CLASSES[0].color, 255) and colours[0, 0, 3] == 0  # the last: unknown
    assert len(row["prediction"]) < 500


def test_sections_follow_the_figures(loaded: results.Results) -> None:

    assert {section.kind for section in build.SECTIONS} == set(figure_names.KINDS)
    assert paths.Cell("d", "p", "m", 0).pictures.name == "gallery.parquet"
