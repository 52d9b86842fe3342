"""Names in scripts that DejaVu Sans lacks: drawn in an installed font, else escaped in bitmaps and kept in SVG."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.ft2font import FT2Font
from PIL import Image

from dualteacher.data.class_table import ClassInfo
from dualteacher.evaluation import gallery
from dualteacher.reporting.figures import drawing
from dualteacher.system import fonts

STIX = Path(matplotlib.get_data_path()) / "fonts/ttf/STIXGeneral.ttf"  # has ⓐ, which DejaVu Sans lacks
CHINESE = "背景"


@pytest.fixture(autouse=True)
def only_stix(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's other fonts must not matter."""
    monkeypatch.setattr(fonts, "_installed", lambda: iter([("STIXGeneral", STIX)]))
    caches = fonts._fallbacks, fonts._unknown, fonts._warn
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_an_installed_font_draws_what_dejavu_lacks() -> None:
    assert not fonts.lacking("Größe Дом بيت") and fonts.lacking("room ⓐ") == ["ⓐ"]
    assert fonts.family("room ⓐ") == ["DejaVu Sans", "STIXGeneral"]
    assert fonts.printable("room ⓐ") == "room ⓐ"
    font, shown = fonts.choose("ⓐ", 20)
    assert shown == "ⓐ" and font.getname()[0] == "STIXGeneral"


def test_a_character_of_no_font_is_escaped_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dualteacher"):
        assert fonts.printable(f"{CHINESE} ⓐ") == "\\u80cc\\u666f ⓐ"
        assert fonts.choose("x\U000e0100道", 12)[1] == "x\\u9053"  # a variation selector is nothing to see
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "no installed font has some characters of the names"
    ]


def test_figures_escape_in_png_and_keep_in_svg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, set[str]] = {}

    def save(canvas: drawing.Canvas, path: Path, format: str, **_: object) -> None:
        drawn[format] = {*drawing._texts(canvas)}
        path.write_text("text/css", encoding="utf-8")

    def draw(axes: object) -> None:
        axes.set_yticks([0, 1], [CHINESE, "ⓐ"])  # type: ignore[attr-defined]

    monkeypatch.setattr(drawing.Canvas, "savefig", save)
    panel = drawing.Panel(CHINESE, draw, CHINESE)
    drawing.write(drawing.Figure("per_class", [panel], [(CHINESE, "#0072b2", "o")]), tmp_path)
    assert {CHINESE, "ⓐ"} <= drawn["svg"] and "\\u80cc\\u666f" not in drawn["svg"]
    assert {"\\u80cc\\u666f", "ⓐ"} <= drawn["png"] and CHINESE not in drawn["png"]


def test_the_gallery_draws_no_empty_boxes(tmp_path: Path) -> None:
    row = gallery.Row(*(np.zeros(shape, np.uint8) for shape in [(30, 40, 3), (30, 40), (30, 40)]))
    for name, written in (("a", CHINESE), ("b", "\\u80cc\\u666f")):
        gallery.render([row], [ClassInfo(written, (0, 0, 255))], tmp_path / f"{name}.png")
    one, other = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "ab")
    assert np.array_equal(one, other)
    assert FT2Font(str(fonts.default())).get_char_index(ord(CHINESE[0])) == 0
