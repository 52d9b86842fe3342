"""The report as one self-contained HTML page: no network access, no other files.

The page depends only on the runs, their logs and params.yaml. It holds no date, host name or commit, so the same
results give the same bytes.

To add to the page:
- a figure for each dataset and partition: add its kind to figure_names.KINDS, draw it in figures/, and add an entry to
  SECTIONS with its intro and, if wanted, a sentence for each method (`words`) and a table of its numbers (`table`);
- a table over all results: write a function in html_tables.py that returns a Table, call it in `_content`, and put
  `{{ table(name) }}` into templates/page.html.j2;
- a remark on a dataset and partition, such as a warning: add a line in sentences.read.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from dualteacher import __version__
from dualteacher.reporting import sentences, tables
from dualteacher.reporting.figures import classes, drawing, insight
from dualteacher.reporting.figures.drawing import Figure
from dualteacher.reporting.page import gallery, html_tables, runs
from dualteacher.reporting.page.html_tables import Table
from dualteacher.reporting.results import Results, Run, spoken
from dualteacher.system import files, paths

PACKAGES = [
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pandas",
    "pyarrow",
    "pillow",
    "scikit-image",
    "safetensors",
    "matplotlib",
]


@dataclass(frozen=True)
class PageSection:
    """A section of the page: one figure of a kind for each dataset and partition."""

    kind: str  # one of figure_names.KINDS
    title: str
    intro: str
    layout: str = ""  # CSS class of its panels: "" (small), two (large, beside a table), wide, matrices
    words: Callable[[str, Sequence[Run]], str] | None = None  # (method, its runs) → a sentence, or ""
    table: Callable[[Results, str, str], Table] | None = None  # (results, dataset, partition) → numbers
    lines: Callable[[Sequence[Run], Sequence[str]], list[str]] | None = None  # (runs, classes) → lines below the panel

    @property
    def target(self) -> str:
        """The section's anchor in the page."""
        return self.kind.replace("_", "-")


SECTIONS = (
    PageSection(
        "curves",
        "Learning curves",
        "By optimiser step, after the warm-up. Lines are means over seeds; bands span the lowest to the highest seed."
        " Click a method to highlight it.",
    ),
    PageSection(
        "methods",
        "Method by method",
        "Validation mIoU again, one panel per method. Thin lines are seeds, the thick line is their mean, grey lines"
        " are the other methods' means. All panels share the same scale.",
    ),
    PageSection(
        "teachers",
        "Teachers",
        "How far each teacher is from its student: relative L2 distance between their parameters, and share of pixels"
        " they label differently. Temporary teachers take turns: the active one tracks the student while the waiting"
        " one falls behind, so the two lines alternate. Shaded: epochs in which teacher B is active.",
        words=sentences.teachers,
    ),
    PageSection(
        "pseudo_labels",
        "Pseudo-labels",
        "Share of pseudo-labels that pass the confidence threshold, and the accuracy of those kept, measured on probe"
        " images whose masks training never uses. Dashed: accuracy of all pseudo-labels, kept or not. Many kept but few"
        " correct is how self-training fails.",
        words=sentences.pseudo_labels,
    ),
    PageSection(
        "calibration",
        "Calibration",
        "Reliability on the probe images of the last pseudo-labels each method trained on (for supervised training: of"
        " the pseudo-labels its student would give). Bars: accuracy by confidence; perfect calibration is the dashed"
        " line. Dots: share of all pixels. ECE, the expected calibration error, is the mean distance from that line"
        " over pixels.",
        words=insight.calibrated,
    ),
    PageSection(
        "per_class",
        "Classes",
        "IoU by class, most frequent class first. Thin lines span the lowest to the highest seed.",
        layout="two",
        table=html_tables.class_table,
    ),
    PageSection(
        "class_gains",
        "Gains by class",
        "Each class's IoU minus the baseline's with the same seed, averaged over seeds; with three or more seeds, a"
        " confidence interval too. A gain in mIoU can hide a loss in a rare class.",
    ),
    PageSection(
        "confusion",
        "Confusion",
        "How the pixels of each true class (row) were classified, in % of the row, all seeds pooled. The shading"
        " exaggerates small shares; the numbers are exact.",
        layout="matrices",
        lines=classes.mistakes,
    ),
    PageSection(
        "snapshots",
        "Predictions over epochs",
        "One fixed validation image, and the prediction of each method's student (first seed) at several validations.",
        layout="wide",
    ),
    PageSection(
        "hardest",
        "Hardest images",
        "The validation images with the lowest mIoU, averaged over methods and seeds, beside their ground truth.",
    ),
)


@dataclass(frozen=True)
class PageBlock:
    """A figure's panels for one dataset and partition, with their remarks and numbers."""

    heading: str
    panels: Sequence[tuple[str, Markup, Sequence[str]]] = ()  # title, svg, lines below
    legend: Sequence[tuple[str, str, str]] = ()  # label, colour, method
    remarks: Sequence[str] = ()
    empty: str = ""
    failed: bool = False  # drawing failed, which the page must say
    columns: int = 1
    table: Table | None = None


def write(results: Results, table: pd.DataFrame, seeds: pd.DataFrame, drawn: dict[str, Figure], params: str) -> Path:
    """Write index.html; `params` is the text of params.yaml. Returns the page's path."""
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("page.html.j2").render(_content(results, table, seeds, drawn, params))
    path = paths.REPORT / "index.html"
    with files.atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _content(
    results: Results, table: pd.DataFrame, seeds: pd.DataFrame, drawn: dict[str, Figure], params: str
) -> dict[str, Any]:
    """The template's variables."""
    settings, grid = results.settings, results.settings.grid
    colors = {m: drawing.variable(c) for m, c in drawing.colors(grid.methods, settings.report.baseline).items()}
    every = [(section, _blocks(results, drawn, section)) for section in SECTIONS]
    sections = [(section, blocks) for section, blocks in every if any(b.panels or b.failed for b in blocks)]
    return {
        "title": settings.report.title,
        "baseline": spoken(settings.report.baseline),
        "grid": grid,
        "runs": len(results.runs),
        "held_out": any(run.metrics["selected"] == "held_out" for run in results.runs),
        "spoken": spoken,
        "settings": settings,
        **_findings(results, seeds),
        "scores": [
            _figure(drawn[f"{dataset}-scores"], dataset if len(grid.dataset) > 1 else "", results)
            for dataset in grid.dataset
        ],
        "result_table": html_tables.result_table(results, table, seeds, colors),
        "cost_table": html_tables.cost_table(results, table, colors),
        "data_table": html_tables.data_table(results),
        "contents": [(section.target, section.title) for section, _ in sections],
        "difference_shown": gallery.difference(results),
        "run_table": html_tables.run_table(results, colors),
        "sections": sections,
        "galleries": gallery.galleries(results, {field: _heading(results, *field) for field in results.fields}),
        "sheets": runs.sheets(results),
        "published": _published(results),
        "params": params,
        "versions": [("dualteacher", __version__), ("python", platform.python_version()), *_versions()],
    }


def nobreak(text: str) -> str:
    """Keep a number and its unit on one line, with no-break spaces."""
    for sign in ("%", "×", "points", "point"):
        text = text.replace(f" {sign}", f"\u00a0{sign}")
    return text.replace("± ", "±\u00a0").replace(" ±", "\u00a0±")


def _heading(results: Results, dataset: str, partition: str) -> str:
    """Heading of a block: dataset and partition, where there are several."""
    grid = results.settings.grid
    parts = [dataset] if len(grid.dataset) > 1 else []
    parts += [partition] if len(grid.partition) > 1 else []
    return " · ".join(parts)


def _findings(results: Results, seeds: pd.DataFrame) -> dict[str, Any]:
    """The findings for each dataset and partition; remarks that hold for all of them are listed once."""
    found: list[dict[str, Any]] = []
    for dataset, partition in results.fields:
        of_field = seeds[(seeds["dataset"] == dataset) & (seeds["partition"] == partition)]
        bounds = seeds[seeds["bound"] & (seeds["dataset"] == dataset)]
        read = sentences.read(of_field, results.settings.report.baseline, bounds)
        labelled = tables.between(of_field["labelled"].min(), of_field["labelled"].max())
        total = (of_field["labelled"] + of_field["unlabelled"]).max()
        place = f"{dataset}, {partition}: {labelled} of {tables.whole(total)} training images labelled"
        found.append({"place": place, "lead": nobreak(read.lead), "remarks": [nobreak(text) for text in read.remarks]})
    shared: list[str] = []
    if len(found) > 1:
        shared = [text for text in found[0]["remarks"] if all(text in one["remarks"] for one in found)]
        for one in found:
            one["remarks"] = [text for text in one["remarks"] if text not in shared]
    return {"findings": found, "shared_remarks": shared}


# ---------------------------------------------------------------- figures


def _figure(figure: Figure, heading: str, results: Results) -> PageBlock:
    make = partial(_drawn, figure, heading, results)
    return drawing.attempt(figure.name, make, lambda left_out: PageBlock(heading, empty=left_out.empty, failed=True))


def _drawn(figure: Figure, heading: str, results: Results) -> PageBlock:
    methods = {spoken(method): method for method in results.settings.grid.methods}
    panels = [
        (panel.title, Markup(drawing.inline(panel, f"{figure.name}-{i}")), ())  # safe: labels are escaped there
        for i, panel in enumerate(figure.panels)
    ]
    legend = [(label, drawing.variable(color), methods[label]) for label, color, _ in figure.legend]
    empty = "" if panels else figure.empty
    return PageBlock(heading, panels, legend, empty=empty, failed=figure.failed, columns=figure.columns)


def _blocks(results: Results, drawn: dict[str, Figure], section: PageSection) -> list[PageBlock]:
    """The figures of a section, each with its remarks and table."""
    blocks = []
    for dataset, partition in results.fields:
        block = _figure(drawn[f"{dataset}-{partition}-{section.kind}"], _heading(results, dataset, partition), results)
        of_method = results.by_method(dataset, partition)
        panels, remarks = block.panels, []
        if section.lines and panels:  # such figures have one panel per method
            names = [entry.name for entry in results.classes[dataset]]
            panels = [
                (title, svg, section.lines(runs, names))
                for (title, svg, _), runs in zip(panels, of_method.values(), strict=True)
            ]
        if section.words:
            remarks = [nobreak(text) for m, runs in of_method.items() if (text := section.words(m, runs))]
        table = section.table(results, dataset, partition) if section.table else None
        blocks.append(replace(block, panels=panels, remarks=remarks, table=table))
    return blocks


# ---------------------------------------------------------------- provenance


@cache
def _all_published() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))


def _published(results: Results) -> list[dict[str, Any]]:
    """Published results on the report's datasets, found by each dataset's source."""
    datasets = results.settings.datasets
    sources = dict.fromkeys(str(datasets[name].source) for name in results.settings.grid.dataset)
    return [_all_published()[source] for source in sources if source in _all_published()]


def _versions() -> list[tuple[str, str]]:
    """Package versions, without importing the packages: the report needs no torch."""
    found = []
    for name in PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found
