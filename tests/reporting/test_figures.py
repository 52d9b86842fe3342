"""Figures draw names as they are written, and one that fails costs neither the page nor the other figures."""

from __future__ import annotations

import errno
import html
import re
import shutil
from pathlib import Path

import pytest
import results_tree  # type: ignore[import-not-found]

from dualteacher import settings
from dualteacher.reporting import figures
from dualteacher.reporting.figures import drawing
from dualteacher.stages import report
from dualteacher.system import paths

ODD = ["US$ note and $ coin", "cost $a^b{$", "x$_y", "10% & more  spaces", "a|b <c> \\frac{1}"]


def texts(svg: str) -> set[str]:
    return {html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)}


@pytest.mark.slow
def test_class_names_are_drawn_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        results_tree,
        "CLASSES",
        [info._replace(name=name) for info, name in zip(results_tree.CLASSES, ODD, strict=True)],
    )
    report.run(
        results_tree.make_tree(tmp_path, results_tree.parameters(method=["supervised", "dual_teacher"], seed=[0]))
    )
    page = Path("results/report/index.html").read_text(encoding="utf-8")
    assert "could not be drawn" not in page and texts(page) >= set(ODD)
    for kind in ("confusion", "per_class"):
        svg = (paths.FIGURES / f"bluemarble-eighth-{kind}.svg").read_text(encoding="utf-8")
        assert texts(svg) >= set(ODD) and "text{white-space: pre}" in svg


@pytest.mark.parametrize("methods", [1, 6, 12])
def test_the_legend_is_inside_the_figure(methods: int) -> None:
    entries = [(f"Mean Teacher {number}", "#0072b2", "o") for number in range(methods)]
    panel = drawing.Panel("mIoU (%)", lambda axes: axes.plot([0, 1]), "a line")
    canvas = drawing._laid_out(drawing._compose(drawing.Figure("scores", [panel], entries)))
    canvas.canvas.draw()
    legend, axes = canvas.legends[0].get_window_extent(), canvas.axes[0].get_window_extent()
    assert min(legend.x0, legend.y0) >= 0 and legend.x1 <= canvas.bbox.width and legend.y1 < axes.y0
    assert axes.height > 0.4 * drawing.Panel.size[1] * canvas.dpi


def outputs(root: Path) -> dict[str, bytes]:
    """Everything the report wrote, by path."""
    written = [*(root / "results/report").rglob("*"), root / "results/summary.json"]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in written if path.is_file()}


def fail(*_: object) -> None:
    raise ValueError("no such\ncolour: $x^{")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["draw", "make", "page"])
def test_a_figure_that_fails_is_left_out_and_named_and_the_rest_is_there(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    again = tmp_path / "again"
    shutil.copytree(made, again, ignore=shutil.ignore_patterns("report", "summary.json"))
    monkeypatch.chdir(again)
    if place == "page":
        alone = drawing.inline
        monkeypatch.setattr(drawing, "inline", lambda panel, name: (fail if "curves" in name else alone)(panel, name))
    else:
        monkeypatch.setattr(figures, "_by_method" if place == "draw" else "_curves", fail)
    report.run(settings.load())
    page = Path("results/report/index.html").read_text(encoding="utf-8")
    named = "No data: figure bluemarble-eighth-curves could not be drawn (ValueError: no such colour: $x^{)."
    assert named in html.unescape(page)
    first, second = outputs(made), outputs(again)
    assert first.keys() == second.keys()
    changed = {name for name in first if first[name] != second[name]} - {"results/report/index.html"}
    expected = set() if place == "page" else {"bluemarble-eighth-curves"}
    expected |= {"bluemarble-eighth-pseudo_labels"} if place == "draw" else set()
    assert changed == {f"results/report/figures/{name}.{suffix}" for name in expected for suffix in ("png", "svg")}


def test_a_full_disk_is_not_taken_for_a_figure_that_fails(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(drawing, "_write", full)
    with pytest.raises(OSError, match="No space"):
        drawing.write(drawing.Figure("x", ()), tmp_path)
