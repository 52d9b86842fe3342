"""docs/reference is what the code makes, and says something of every key and file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dualteacher.workflow.reference import params
from dualteacher.workflow.reference.__main__ import FOLDER, PAGES
from tests.docs.pages import ROOT


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_current(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), "run `make reference`"


def test_every_key_has_a_type_and_a_meaning() -> None:
    rows = re.findall(r"^\| `([\w.\[\]]+)` \| (.*?) \| .*? \| (.*) \|$", params.page(), re.MULTILINE)
    assert len(rows) > 110
    assert [name for name, kind, meaning in rows if not kind.strip() or not meaning.strip()] == []


def test_limits_are_spelt() -> None:
    from dualteacher.settings import BlueMarble, Runtime

    tile = BlueMarble.model_fields["tile"]
    assert params.spell(params.Annotated[(tile.annotation, *tile.metadata)]) == (
        "whole number, ≥ 16, ≤ 512, a multiple of 8"
    )
    device = Runtime.model_fields["device"]
    assert "`cuda:N`" in params.spell(params.Annotated[(device.annotation, *device.metadata)])


def test_width_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert (ROOT / FOLDER / "cli.md").read_text(encoding="utf-8") == PAGES["cli.md"]()
    assert Path(FOLDER).is_dir()
