"""Imports point down: docs/architecture.md lists the layers and their packages."""

from __future__ import annotations

import re

import grimp
import pytest

from tests.docs.pages import ROOT

ROW = re.compile(r"^\| (\d+) \| (.*?) \|", re.MULTILINE)
ENTRANCE = {"dualteacher", "dualteacher.__main__"}  # the version; `python -m dualteacher`


@pytest.fixture(scope="module")
def layers() -> dict[str, int]:
    """Package → layer, from the table of the page."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = ROW.findall(text)
    return {package: int(layer) for layer, names in rows for package in re.findall(r"`([\w.]+)`", names)}


def package_of(module: str, layers: dict[str, int]) -> str:
    """The innermost listed package that contains a module."""
    inner = module.removeprefix("dualteacher.")
    packages = [package for package in layers if inner == package or inner.startswith(f"{package}.")]
    assert packages, f"{module} is in no layer of docs/architecture.md"
    return max(packages, key=len)


def test_every_import_points_to_a_lower_layer(layers: dict[str, int]) -> None:
    graph = grimp.build_graph("dualteacher", cache_dir=None)
    upwards = []
    for importer in graph.modules - ENTRANCE:
        for imported in graph.find_modules_directly_imported_by(importer) - ENTRANCE:
            here, there = package_of(importer, layers), package_of(imported, layers)
            if here != there and layers[there] >= layers[here]:
                upwards.append(f"{importer} (layer {layers[here]}) imports {imported} (layer {layers[there]})")
    assert not upwards, "\n".join(sorted(upwards))


def test_every_package_of_the_page_exists(layers: dict[str, int]) -> None:
    root = ROOT / "dualteacher"
    missing = [package for package in layers if not list(root.glob(f"{package.replace('.', '/')}*"))]
    assert not missing and len(layers) > 12
