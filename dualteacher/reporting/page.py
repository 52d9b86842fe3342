"""The report as one HTML page that needs nothing else: no network, no files beside it.

Every byte follows from the runs and params.yaml, so that the same results give the same page: no date,
no host name, no commit.
"""

from __future__ import annotations

import base64
import io
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup
from PIL import Image

from dualteacher import __version__, files, paths
from dualteacher.reporting import class_figures, drawing, page_tables, reading, tables
from dualteacher.reporting.drawing import Figure
from dualteacher.reporting.page_tables import Table
from dualteacher.reporting.results import Results, Run, spoken

GALLERY_BUDGET = 5_500_000  # bytes of images in the page, as encoded
GALLERY_PLAIN = 300_000  # a PNG up to this size is embedded as it is
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
class Block:
    """A figure's panels or a gallery of one dataset and partition."""

    heading: str
    panels: Sequence[tuple[str, Markup, Sequence[str]]] = ()  # title, svg, lines below
    legend: Sequence[tuple[str, str, str]] = ()  # label, colour, method
    remarks: Sequence[str] = ()
    empty: str = ""
    columns: int = 1
    table: Table | None = None
    images: Sequence[tuple[str, str]] = field(default=())  # title, data URI or "" with the path as title


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
    colors = {m: drawing.variable(c) for m, c in drawing.colors(grid.method, settings.report.baseline).items()}
    return {
        "title": settings.report.title,
        "baseline": spoken(settings.report.baseline),
        "grid": grid,
        "runs": len(results.runs),
        "spoken": spoken,
        "settings": settings,
        **_findings(results, seeds),
        "scores": [
            _figure(drawn[f"{dataset}-scores"], dataset if len(grid.dataset) > 1 else "", results)
            for dataset in grid.dataset
        ],
        "result_table": page_tables.result_table(results, table, seeds, colors),
        "cost_table": page_tables.cost_table(results, table, colors),
        "data_table": page_tables.data_table(results),
        "curves": _blocks(results, drawn, "curves"),
        "teachers": _blocks(results, drawn, "teachers"),
        "pseudo_labels": _blocks(results, drawn, "pseudo_labels"),
        "confusion": _blocks(results, drawn, "confusion"),
        "per_class": _blocks(results, drawn, "per_class"),
        "galleries": _galleries(results),
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
        read = reading.read(of_field, results.settings.report.baseline)
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
    methods = {spoken(method): method for method in results.settings.grid.method}
    panels = [
        (panel.title, Markup(drawing.inline(panel, f"{figure.name}-{i}")), ())  # our own markup, labels escaped there
        for i, panel in enumerate(figure.panels)
    ]
    legend = [(label, drawing.variable(color), methods[label]) for label, color, _ in figure.legend]
    return Block(heading, panels, legend, empty="" if panels else figure.empty, columns=figure.columns)


def _blocks(results: Results, drawn: dict[str, Figure], kind: str) -> list[Block]:
    """One kind of figure for each dataset and partition, with the words and tables that go with it."""
    blocks = []
    for dataset, partition in results.fields:
        block = _figure(drawn[f"{dataset}-{partition}-{kind}"], _heading(results, dataset, partition), results)
        of_method = {m: results.of(dataset, partition, m) for m in results.settings.grid.method}
        panels, remarks, table = block.panels, [], None
        if kind == "confusion":
            names = [entry.name for entry in results.classes[dataset]]
            panels = [
                (title, svg, _confusions(runs, names))
                for (title, svg, _), runs in zip(panels, of_method.values(), strict=True)
            ]
        elif kind == "per_class":
            table = page_tables.class_table(results, dataset, partition)
        elif kind in ("teachers", "pseudo_labels"):
            say = reading.teachers if kind == "teachers" else reading.pseudo_labels
            remarks = [nobreak(text) for m, runs in of_method.items() if (text := say(m, runs))]
        blocks.append(replace(block, panels=panels, remarks=remarks, table=table))
    return blocks


def _confusions(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """The three most frequent mistakes, in words."""
    shares = pd.DataFrame(class_figures.normalised(runs)).stack().dropna()
    wrong = shares[[true != predicted for true, predicted in shares.index]].sort_values(ascending=False, kind="stable")
    return [
        f"{tables.percent(share)} % of {names[true]} taken for {names[predicted]}"
        for (true, predicted), share in wrong.head(3).items()
        if share > 0
    ]


def _galleries(results: Results) -> list[Block]:
    """Each cell's gallery while the budget lasts, all methods' first seeds before any second seed."""
    encoded: dict[paths.Cell, str] = {}
    left = GALLERY_BUDGET
    for seed in results.settings.grid.seed:
        for run in results.runs:
            if run.cell.seed == seed:
                uri = data_uri(run.cell.gallery)
                encoded[run.cell] = uri if len(uri) <= left else ""
                left -= len(encoded[run.cell])
    blocks = []
    for dataset, partition in results.fields:
        images = []
        for method in results.settings.grid.method:
            for run in results.of(dataset, partition, method):
                title = f"{spoken(method)}, seed {run.cell.seed}"
                images.append((title if encoded[run.cell] else str(run.cell.gallery.as_posix()), encoded[run.cell]))
        blocks.append(Block(_heading(results, dataset, partition), images=images))
    return blocks


def data_uri(path: Path) -> str:
    """An image file as a data URI; a large one as WebP of at most 1,400 pixels width."""
    content, kind = path.read_bytes(), "png"
    if len(content) > GALLERY_PLAIN:
        with Image.open(path) as image:
            smaller = image.convert("RGB")
            smaller.thumbnail((1400, 20_000))
            buffer = io.BytesIO()
            smaller.save(buffer, format="WEBP", quality=86, method=4)
        content, kind = buffer.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


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
