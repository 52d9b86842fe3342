"""What a reader of the report relies on: complete, self-contained, the same each time, errors in one line."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from results_tree import make_tree, parameters  # type: ignore[import-not-found]

from dualteacher import settings
from dualteacher.reporting import figure_names, results
from dualteacher.stages import report
from dualteacher.system import paths
from dualteacher.system.errors import UserError

OUTPUTS = ["results/summary.json", "results/report/index.html"]
OUTPUTS += [f"results/report/{name}" for name in ("table.csv", "table.md", "table.tex", "table.parquet")]
OUTPUTS += ["results/report/table_seeds.parquet", "results/report/curves.csv"]
OUTPUTS += [f"results/report/{name}.csv" for name in ("comparisons", "class_gains", "calibration", "hardest", "alarms")]


def outputs(root: Path) -> dict[str, bytes]:
    """Everything the report wrote, by path."""
    written = [*(root / "results/report").rglob("*"), root / "results/summary.json"]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in written if path.is_file()}


def test_writes_exactly_the_files_that_the_engines_declare(made: Path) -> None:
    grid = settings.load(made / "params.yaml").grid
    declared = {*OUTPUTS, *(path.as_posix() for path in figure_names.files_of(grid))}
    assert set(outputs(made)) == declared


@pytest.mark.slow
def test_same_bytes_in_another_process_whatever_the_users_matplotlib_settings_and_no_torch(
    made: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(made, again, ignore=shutil.ignore_patterns("report", "summary.json"))
    (again / "matplotlibrc").write_text("lines.linewidth: 9\nbackend: svg\nfont.size: 20\nsvg.fonttype: path\n")
    code = (
        "import sys; from dualteacher import settings; from dualteacher.stages import report;"
        "report.run(settings.load()); assert 'torch' not in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(report.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=again, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Dual Teacher" in done.stdout and "report: results/report/index.html" in done.stdout
    first, second = outputs(made), outputs(again)
    assert [name for name in first if first[name] != second.get(name)] == []


class Resources(HTMLParser):
    """Collects all that a browser would load or go to, and the ids."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action") and value:
                self.addresses.append(value)
            if name == "id" and value:
                self.ids.append(value)


def test_page_needs_no_network_and_no_file_beside_it(made: Path) -> None:
    text = (made / "results/report/index.html").read_text(encoding="utf-8")
    page = Resources()
    page.feed(text)
    assert page.addresses and all(address.startswith(("#", "data:image/")) for address in page.addresses)
    for outside in ("http://", "https://", "@import", "//cdn", "<link", "<iframe", "<script src"):
        assert outside not in text
    assert "default-src 'none'" in text  # and the browser would refuse it too
    assert "<metadata" not in text and "<!DOCTYPE svg" not in text


def test_page_has_unique_ids_and_no_dangling_reference(made: Path) -> None:
    text = (made / "results/report/index.html").read_text(encoding="utf-8")
    page = Resources()
    page.feed(text)
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_page_is_small_and_shows_every_cell(made: Path) -> None:
    path = made / "results/report/index.html"
    assert path.stat().st_size < 8_000_000
    text = path.read_text(encoding="utf-8")
    for method in ("Supervised", "Mean Teacher", "Dual Teacher"):
        for seed in (0, 1):
            assert text.count(f"{method}, seed {seed}</h3>") == 1
            assert f">{method}, seed {seed}</option>" in text
    assert "aria-label" in text and "prefers-color-scheme" in text
    assert "grid:" in text and "threshold: 0.95" in text  # params.yaml verbatim


def test_says_that_a_method_does_not_beat_the_baseline(made: Path) -> None:
    text = (made / "results/report/index.html").read_text(encoding="utf-8")
    assert "Mean Teacher does not beat Supervised here" in text
    assert "Dual Teacher is ahead with" in text


def test_what_holds_for_all_partitions_is_said_once(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dualteacher.reporting import tables
    from dualteacher.reporting.page import build

    monkeypatch.chdir(made)
    loaded = results.load(settings.load())
    seeds = tables.per_seed(loaded)
    other = seeds.assign(partition="quarter", miou=seeds["miou"] ** 2)
    grid = loaded.settings.grid.model_copy(update={"partition": ["eighth", "quarter"]})
    both = results.Results(loaded.settings.model_copy(update={"grid": grid}), loaded.runs, loaded.classes)
    found = build._findings(both, pd.concat([seeds, other]))
    assert any("Two seeds" in text for text in found["shared_remarks"])
    assert not any("Two seeds" in text for one in found["findings"] for text in one["remarks"])
    assert all(any("Mean Teacher" in text for text in one["remarks"]) for one in found["findings"])


def test_names_given_by_the_user_cannot_break_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dualteacher.reporting.figures import drawing

    panel = drawing.Panel("<b>", lambda axes: axes.set_xlabel("a < b & c"), 'say "<script>"')
    svg = drawing.inline(panel, "x")
    assert "<script>" not in svg and "&lt;script>" in svg and "a &lt; b &amp; c" in svg


def test_published_numbers_stand_only_beside_their_own_dataset(made: Path) -> None:
    from types import SimpleNamespace as Stub

    from dualteacher.reporting.page import build

    assert "Published by others" not in (made / "results/report/index.html").read_text(encoding="utf-8")
    grid = Stub(dataset=["pascal"])
    voc = Stub(settings=Stub(grid=grid, datasets={"pascal": Stub(source="voc")}))
    assert [block["title"] for block in build._published(voc)] == ["PASCAL VOC 2012 val, classic protocol"]  # type: ignore[arg-type]
    for block in build._all_published().values():
        assert all(len(row["values"]) == len(block["columns"]) for row in block["rows"])
        values = [value for row in block["rows"] for value in row["values"]]
        assert all(value is None or 20 < value < 95 for value in values)  # null: not published


def test_figures_open(made: Path) -> None:
    for path in (made / "results/report/figures").glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert image.width > 400


def test_the_readmes_picture_is_made_of_the_page(made: Path, tmp_path: Path) -> None:
    script = runpy.run_path(str(Path(report.__file__).parents[2] / "docs" / "control" / "picture.py"))
    rows = script["rows"]((made / "results/report/index.html").read_text(encoding="utf-8"))
    assert [len(row) for row in rows] == [4, 4, 4] and rows[0][1][1] == "ground truth"
    assert all("% correct" in text for row in rows for _, text in row[2:])
    drawn = script["drawn"](rows)
    assert drawn.size[0] > 4 * script["SIDE"] and drawn.size[1] > 3 * script["SIDE"]


def test_summary_is_small(made: Path) -> None:
    tree = json.loads((made / "results/summary.json").read_text())
    assert list(tree["bluemarble"]) == ["eighth"]
    assert set(tree["bluemarble"]["eighth"]["dual_teacher"]) == {"miou", "seeds"}
    assert tree["bluemarble"]["eighth"]["dual_teacher"]["seeds"] == 2


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("metrics", "evaluate --dataset bluemarble --partition eighth --method dual_teacher --seed 0"),
        ("gallery", "evaluate --dataset bluemarble --partition eighth --method dual_teacher --seed 0"),
        ("history", "train --dataset bluemarble --partition eighth --method dual_teacher --seed 0"),
        ("cost", "train --dataset bluemarble --partition eighth --method dual_teacher --seed 0"),
    ],
)
def test_missing_file_is_one_line_that_names_it_and_the_command(
    small: Path, file: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small)
    path: Path = getattr(paths.Cell("bluemarble", "eighth", "dual_teacher", 0), file)
    kept = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(UserError) as error:
            report.run(settings.load())
    finally:
        path.write_bytes(kept)
    assert str(path) in str(error.value) and f"python -m dualteacher {command}" in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_and_incomplete_files_are_user_errors(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small)
    cell = paths.Cell("bluemarble", "eighth", "supervised", 0)
    loaded = settings.load()
    for path, content, words in (
        (cell.metrics, b"{", "not valid JSON"),
        (cell.metrics, b'{"miou": 0.3}', "has no 'pixel_accuracy'"),
        (cell.history, b"no parquet", "not a readable table"),
        (paths.Dataset("bluemarble").classes, b'[{"name": "a"}]', "not a valid class table"),
    ):
        kept = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(UserError, match=words):
            results.load(loaded)
        path.write_bytes(kept)


def test_refuses_to_compare_methods_that_learnt_from_other_images(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small)
    path = paths.Cell("bluemarble", "eighth", "dual_teacher", 0).metrics
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | {"partition_sha256": "another"}))
    with pytest.raises(UserError, match="trained on different labelled images"):
        results.load(settings.load())
    path.write_text(kept)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of two methods with one seed; no report."""
    root = tmp_path_factory.mktemp("small")
    make_tree(root, parameters(method=["supervised", "dual_teacher"], seed=[0]))
    return root


@pytest.mark.slow
def test_works_with_one_method_without_teachers_validation_or_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = make_tree(tmp_path, parameters(partition=["eighth", "quarter"], method=["supervised"], seed=[3]))
    monkeypatch.chdir(tmp_path)
    for part in ("eighth", "quarter"):
        cell = paths.Cell("bluemarble", part, "supervised", 3)
        history = pd.read_parquet(cell.history)
        history["val_miou"] = float("nan")
        history.to_parquet(cell.history, index=False)
        metrics = json.loads(cell.metrics.read_text()) | {"best_miou": None, "best_epoch": None}
        cell.metrics.write_text(json.dumps(metrics))
    report.run(loaded)
    assert set(outputs(tmp_path)) == {*OUTPUTS, *(path.as_posix() for path in figure_names.files_of(loaded.grid))}
    text = Path("results/report/index.html").read_text(encoding="utf-8")
    assert "Only Supervised was run" in text and "No data" not in text
    assert 'id="confusion"' in text  # sections without anything to show are left out, also of the contents
    assert 'id="teachers"' not in text and "#teachers" not in text and 'class="quartet"' not in text
    printed = capsys.readouterr().out
    assert "± —" in printed and "± 0.0" not in printed
