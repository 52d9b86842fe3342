"""docs/reliability.md names tests that exist."""

from __future__ import annotations

import re

from tests.core.conftest import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_every_row_names_a_test_that_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 30
    for path, test in named:
        assert re.search(rf"^def {test}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{test}"
    rows = [
        line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| fault", "| promise"))
    ]
    for row in rows:
        assert "::test_" in row, row
