"""The report as one HTML page that needs nothing else: no network, no files beside it.

Every byte follows from the runs, their logs and params.yaml, so that the same results give the same page: no
date, no host name, no commit.

How something is added to the page:
- a figure for each dataset and partition: its kind in kinds.KINDS (drawn in figures/), and one entry in SECTIONS, which
  says what it shows, a sentence a method beside it (`words`) and its numbers (`table`), where there are any;
- a table on all results: a function in html_tables.py that gives a Table, called in `_content`, and
  `{{ table(name) }}` where it belongs in templates/page.html.j2;
- a remark on the results of a dataset and partition, such as a warning: one more line in reading.read.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from dualteacher import __version__
from dualteacher.reporting import reading, tables
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
class Section:
    """A section of figures: one figure of this kind for each dataset and partition."""

    kind: str  # of kinds.KINDS
    title: str
    intro: str
    layout: str = ""  # CSS class of its panels: "" (small), two (large, beside a table), matrices
    words: Callable[[str, Sequence[Run]], str] | None = None  # (method, its runs) → a sentence, or ""
    table: Callable[[Results, str, str], Table] | None = None  # (results, dataset, partition) → its numbers
    lines: Callable[[Sequence[Run], Sequence[str]], list[str]] | None = None  # (runs, classes) → below a method's panel

    @property
    def target(self) -> str:
        """Its address in the page."""
        return self.kind.replace("_", "-")


SECTIONS = (
    Section(
        "curves",
        "Learning curves",
        "By optimiser step, after the warm-up. The line is the mean over seeds, the band reaches from the lowest seed"
        " to the highest. Press a method to pick it out.",
    ),
    Section(
        "methods",
        "Method by method",
        "Validation mIoU once more, a panel for each method: thin lines are its seeds, the thick one their mean, the"
        " grey ones the other methods' means. All panels have the same scale.",
    ),
    Section(
        "teachers",
        "Teachers",
        "How far each teacher is from its student: relative L2 distance of the parameters, and share of pixels with"
        " another label. Temporary teachers take turns: the active one follows the student, the waiting one is left"
        " behind, so the two lines alternate. Shaded: epochs in which teacher B is active.",
        words=reading.teachers,
    ),
    Section(
        "pseudo_labels",
        "Pseudo-labels",
        "How many of the labels that each method learns pass its threshold, and how many of those are right, judged on"
        " probe images whose masks training never sees; dashed: of all labels, kept or not. Many kept and few right is"
        " how self-training goes wrong.",
        words=reading.pseudo_labels,
    ),
    Section(
        "calibration",
        "Calibration",
        "Reliability of the last labels that each method learnt, on the probe images (of a supervised student: of those"
        " it would give): bars are the share of right labels by confidence, which on the dashed line would be honest;"
        " dots are the share of all pixels. ECE: mean distance from that line over pixels.",
        words=insight.calibrated,
    ),
    Section(
        "per_class",
        "Classes",
        "IoU by class, the most frequent class first; thin lines reach from the lowest seed to the highest.",
        layout="two",
        table=html_tables.class_table,
    ),
    Section(
        "class_gains",
        "Gains by class",
        "IoU of each class minus the baseline's with the same seed, mean over seeds, with its interval where three or"
        " more seeds give one. A gain in the mean can be a loss in a rare class.",
    ),
    Section(
        "confusion",
        "Confusion",
        "Where the pixels of each true class (row) went, in % of the row, all seeds together. The shading favours small"
        " shares; the numbers are exact.",
        layout="matrices",
        lines=classes.mistakes,
    ),
    Section(
        "snapshots",
        "Predictions over epochs",
        "One fixed validation image, and what each method's student (first seed) said of it at its validations.",
        layout="wide",
    ),
    Section(
        "hardest",
        "Hardest images",
        "The validation images with the lowest mIoU, mean over methods and seeds, beside their truth.",
    ),
)


@dataclass(frozen=True)
class Block:
    """A figure's panels for one dataset and partition, with the words and numbers that go with them."""

    heading: str
    panels: Sequence[tuple[str, Markup, Sequence[str]]] = ()  # title, svg, lines below
    legend: Sequence[tuple[str, str, str]] = ()  # label, colour, method
    remarks: Sequence[str] = ()
    empty: str = ""
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
    """What the template shows."""
    settings, grid = results.settings, results.settings.grid
    colors = {m: drawing.variable(c) for m, c in drawing.colors(grid.methods, settings.report.baseline).items()}
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
        "contents": [(section.target, section.title) for section in SECTIONS],
        "run_table": html_tables.run_table(results, colors),
        "sections": [(section, _blocks(results, drawn, section)) for section in SECTIONS],
        "galleries": gallery.galleries(results, {field: _heading(results, *field) for field in results.fields}),
        "sheets": runs.sheets(results),
        "published": _published(results),
        "params": params,
        "versions": [("dualteacher", __version__), ("python", platform.python_version()), *_versions()],
    }


def nobreak(text: str) -> str:
    """Keep a number and its sign or unit on one line."""
    for sign in ("%", "×", "points", "point"):
        text = text.replace(f" {sign}", f"\u00a0{sign}")
    return text.replace("± ", "±\u00a0").replace(" ±", "\u00a0±")


def _heading(results: Results, dataset: str, partition: str) -> str:
    """Says only what tells the blocks apart."""
    grid = results.settings.grid
    parts = [dataset] if len(grid.dataset) > 1 else []
    parts += [partition] if len(grid.partition) > 1 else []
    return " · ".join(parts)


def _findings(results: Results, seeds: pd.DataFrame) -> dict[str, Any]:
    """The reading of each dataset and partition; what holds for all of them is said once."""
    found: list[dict[str, Any]] = []
    for dataset, partition in results.fields:
        of_field = seeds[(seeds["dataset"] == dataset) & (seeds["partition"] == partition)]
        bounds = seeds[seeds["bound"] & (seeds["dataset"] == dataset)]
        read = reading.read(of_field, results.settings.report.baseline, bounds)
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


def _figure(figure: Figure, heading: str, results: Results) -> Block:
    methods = {spoken(method): method for method in results.settings.grid.methods}
    panels = [
        (panel.title, Markup(drawing.inline(panel, f"{figure.name}-{i}")), ())  # our own markup, labels escaped there
        for i, panel in enumerate(figure.panels)
    ]
    legend = [(label, drawing.variable(color), methods[label]) for label, color, _ in figure.legend]
    return Block(heading, panels, legend, empty="" if panels else figure.empty, columns=figure.columns)


def _blocks(results: Results, drawn: dict[str, Figure], section: Section) -> list[Block]:
    """The figures of a section, each with the words and tables that go with it."""
    blocks = []
    for dataset, partition in results.fields:
        block = _figure(drawn[f"{dataset}-{partition}-{section.kind}"], _heading(results, dataset, partition), results)
        of_method = results.by_method(dataset, partition)
        panels, remarks = block.panels, []
        if section.lines:  # such a figure has a panel for each method
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
    """Others' numbers on the datasets of this report, by the dataset's source."""
    datasets = results.settings.datasets
    sources = dict.fromkeys(str(datasets[name].source) for name in results.settings.grid.dataset)
    return [_all_published()[source] for source in sources if source in _all_published()]


def _versions() -> list[tuple[str, str]]:
    """Versions without importing anything: the report needs no torch."""
    found = []
    for name in PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found
