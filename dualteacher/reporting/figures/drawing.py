"""Rendering of figures: one style, composed of panels, reproducible to the byte.

Each panel is drawn twice: with its figure's other panels for the PNG and SVG files, and on its own for the page, as
SVG with CSS variables for colours, so that it follows the page's theme and width. The user's matplotlibrc and backend
have no effect: this module sets all rcParams and does not use pyplot.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine as Layout
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter

from dualteacher.system import files, fonts
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError

Made = TypeVar("Made")

INK, MUTED, GRID = "#1c2128", "#5d6673", "#e4e7eb"
BASELINE = "#6b7280"
# Okabe and Ito's colours, ordered so that the first three also differ in lightness; then six that complement them.
PALETTE = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#332288", "#999933", "#882255", "#8a5a2b", "#d6304f", "#44aa99"),
)
MARKERS = ("s", "o", "^", "D", "v", "P", "X")
HEAT = (0.16, 0.5, 0.8)  # RGB of the confusion matrices; opacity shows the value

STYLE: dict[str, Any] = {
    "font.family": [fonts.DEFAULT],
    "font.size": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.dpi": 100.0,
    "savefig.dpi": 160.0,
    "text.parse_math": False,  # class names are free text: a "$" is a dollar
    "svg.fonttype": "none",  # real text: selectable, and in the page's own font
}


@dataclass(frozen=True)
class Panel:
    """One plot. `draw` draws all of it except the title."""

    title: str
    draw: Callable[[Any], None]
    description: str  # alternative text for screen readers
    size: tuple[float, float] = (3.3, 2.3)  # width, height in inches


@dataclass(frozen=True)
class Figure:
    """A group of panels with one legend."""

    name: str  # file name without suffix
    panels: Sequence[Panel]
    legend: Sequence[tuple[str, str, str]] = field(default=())  # (label, colour, marker)
    columns: int = 3
    empty: str = "nothing to draw"  # message if there are no panels
    failed: bool = False  # there are none because drawing them failed


def colors(methods: Sequence[str], baseline: str) -> dict[str, str]:
    """Colour of each method: grey for the baseline, PALETTE in order for the others."""
    others = [method for method in methods if method != baseline]
    chosen = {method: PALETTE[i % len(PALETTE)] for i, method in enumerate(others)}
    return {method: chosen.get(method, BASELINE) for method in methods}


def attempt(name: str, make: Callable[[], Made], otherwise: Callable[[Figure], Made]) -> Made:
    """Return make() or, if it fails, otherwise(placeholder), so that one bad figure does not cost the whole report."""
    try:
        return make()
    except (OSError, UserError):
        raise
    except Exception as error:
        reason = " ".join(f"figure {name} could not be drawn ({type(error).__name__}: {error})".split())
        logger.warning("%s; omitted from the report", reason, exc_info=True)
        return otherwise(Figure(name, (), empty=reason, failed=True))


def write(figure: Figure, folder: Path) -> Figure:
    """Write `folder`/<name>.png and .svg, reproducible to the byte; returns the figure, or its placeholder."""

    def written(drawn: Figure) -> Figure:
        _write(drawn, folder)
        return drawn

    return attempt(figure.name, lambda: written(figure), written)


def _write(figure: Figure, folder: Path) -> None:
    with _style(figure.name):
        drawn, escaped = _readable(lambda: _compose(figure))
        for suffix, metadata, canvas in (
            ("png", {"Software": None}, escaped),
            ("svg", {"Date": None, "Creator": None}, drawn),
        ):
            with files.atomic(folder / f"{figure.name}.{suffix}") as temporary:
                canvas.savefig(temporary, format=suffix, metadata=metadata)
                if suffix == "svg":  # keeps repeated spaces in names
                    text = temporary.read_text(encoding="utf-8")
                    temporary.write_text(
                        text.replace('text/css">', 'text/css">text{white-space: pre}', 1), encoding="utf-8"
                    )


def _readable(compose: Callable[[], Canvas]) -> tuple[Canvas, Canvas]:
    """(canvas for SVG, canvas for PNG), laid out, in fonts that have the characters of the names.

    An SVG keeps characters that no font here has, since the reader's browser may have one.
    """
    canvas = compose()
    text = "".join(_texts(canvas))
    if fonts.lacking(text):
        matplotlib.rcParams["font.family"] = fonts.family(text)  # `_style` sets it back
        canvas = compose()
    if fonts.printable(text) == text:
        return _laid_out(canvas), canvas
    escaped = compose()
    for axes in escaped.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label.get_text() for label in axis.get_majorticklabels()]
            if fonts.lacking("".join(labels)):  # the labels are made anew whenever they are drawn
                axis.set_major_formatter(FixedFormatter([*map(fonts.printable, labels)]))
    for item in escaped.findobj(Text):
        item.set_text(fonts.printable(item.get_text()))
    return _laid_out(canvas), _laid_out(escaped)


def _texts(canvas: Canvas) -> Iterator[str]:
    for axes in canvas.axes:
        for axis in (axes.xaxis, axes.yaxis):
            yield from (label.get_text() for label in axis.get_majorticklabels())
    yield from (item.get_text() for item in canvas.findobj(Text))


def inline(panel: Panel, identity: str) -> str:
    """Render a panel as an <svg> element for the page; `identity` makes its ids unique in the page."""
    with _style(identity):
        canvas = _canvas(panel.size)
        panel.draw(canvas.add_subplot())
        _laid_out(canvas)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return themed(buffer.getvalue(), identity, panel.description)


@contextmanager
def _style(salt: str) -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")  # `fonts` says which characters no font has
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": f"dualteacher {salt}"})
        yield


def _canvas(size: tuple[float, float], pad: float = 0.04) -> Canvas:
    """An empty canvas of `size`, with `pad` around the axes (inches)."""
    canvas = Canvas(figsize=size, layout=Layout(w_pad=pad, h_pad=pad))
    FigureCanvasAgg(canvas)
    return canvas


def _laid_out(canvas: Canvas) -> Canvas:
    """Compute the layout once; otherwise matplotlib repeats it, with a trial drawing, for each file."""
    layout = canvas.get_layout_engine()
    if layout is not None and canvas.axes:
        layout.execute(canvas)
        canvas.set_layout_engine("none")
    return canvas


def _compose(figure: Figure) -> Canvas:
    """All panels on one canvas, row by row, with a shared legend below."""
    count = max(len(figure.panels), 1)
    columns = min(figure.columns, count)
    rows = math.ceil(count / columns)
    width, height = figure.panels[0].size if figure.panels else (4.2, 1.2)
    canvas = _canvas((columns * width, rows * (height + 0.25) + 0.4), pad=0.1)
    if not figure.panels:
        canvas.text(0.5, 0.5, textwrap.fill(figure.empty[:400], 60), ha="center", va="center", color=MUTED)
        return canvas
    for i, panel in enumerate(figure.panels):
        axes = canvas.add_subplot(rows, columns, i + 1)
        panel.draw(axes)
        axes.set_title(panel.title)
    if figure.legend:
        _legend_below(canvas, figure.legend)
    return canvas


def _legend_below(canvas: Canvas, entries: Sequence[tuple[str, str, str]]) -> None:
    """Add the legend in as many columns as fit; each row after the first makes the canvas higher."""
    handles = [Line2D([], [], color=color, marker=marker, markersize=5) for _, color, marker in entries]
    for columns in range(len(entries), 0, -1):
        legend = canvas.legend(
            handles, [label for label, _, _ in entries], loc="outside lower left", ncols=columns, labelcolor=INK
        )
        if columns == 1 or legend.get_window_extent().width <= canvas.bbox.width:
            rows = math.ceil(len(entries) / columns)
            canvas.set_figheight(canvas.get_figheight() + 0.2 * (rows - 1))
            return
        legend.remove()


def themed(svg: str, identity: str, description: str) -> str:
    """Turn matplotlib's SVG file into an inline <svg>: CSS variables as colours, no namespaces, unique ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    width = float(box.group(1).split()[2]) if box else 300.0
    for color, variable in _variables().items():
        rest = rest.replace(color, f"var(--{variable})")
    rest = re.sub(r'id="method:([a-z0-9_]+)[^"]*"', r'data-method="\1"', rest)
    referenced = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", rest))
    rest = re.sub(r' id="([^"]+)"', lambda m: f' id="{identity}-{m[1]}"' if m[1] in referenced else "", rest)
    rest = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{identity}-", rest)
    rest = re.sub(r' d="[^"]+"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), rest)  # two decimals are enough
    rest = re.sub(r"\n\s*", "\n", rest).strip()
    view = box.group(1) if box else "0 0 300 200"
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<svg class="chart" viewBox="{view}" style="--width:{width:.0f}" role="img" aria-label="{label}">{rest}'


def _variables() -> dict[str, str]:
    """Map each drawn colour to the page's CSS variable."""
    fixed = {INK: "ink", MUTED: "muted", GRID: "line", BASELINE: "baseline"}
    return fixed | {color: f"method{i + 1}" for i, color in enumerate(PALETTE)}


def variable(color: str) -> str:
    """CSS reference for a figure's colour, e.g. var(--method1)."""
    return f"var(--{_variables()[color]})"
