"""Imports point down: docs/architecture.md says which room stands on which floor."""

from __future__ import annotations

import re

import grimp
import pytest

from tests.docs.pages import ROOT

ROW = re.compile(r"^\| (\d+) \| (.*?) \|", re.MULTILINE)
ENTRANCE = {"dualteacher", "dualteacher.__main__"}  # the version; `python -m dualteacher`


@pytest.fixture(scope="module")
def floors() -> dict[str, int]:
    """Room → floor, as the page's table has them."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return {room: int(floor) for floor, rooms in ROW.findall(text) for room in re.findall(r"`([\w.]+)`", rooms)}


def room_of(module: str, floors: dict[str, int]) -> str:
    """The innermost room that holds a module."""
    inner = module.removeprefix("dualteacher.")
    rooms = [room for room in floors if inner == room or inner.startswith(f"{room}.")]
    assert rooms, f"{module} is in no room of docs/architecture.md"
    return max(rooms, key=len)


def test_every_import_points_to_a_floor_below(floors: dict[str, int]) -> None:
    graph = grimp.build_graph("dualteacher", cache_dir=None)
    upwards = []
    for importer in graph.modules - ENTRANCE:
        for imported in graph.find_modules_directly_imported_by(importer) - ENTRANCE:
            here, there = room_of(importer, floors), room_of(imported, floors)
            if here != there and floors[there] >= floors[here]:
                upwards.append(f"{importer} (floor {floors[here]}) imports {imported} (floor {floors[there]})")
    assert not upwards, "\n".join(sorted(upwards))


def test_every_room_of_the_page_exists(floors: dict[str, int]) -> None:
    package = ROOT / "dualteacher"
    missing = [room for room in floors if not list(package.glob(f"{room.replace('.', '/')}*"))]
    assert not missing and len(floors) > 12
