"""One report, made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from results_tree import make_tree, parameters  # type: ignore[import-not-found]

from dualteacher.stages import report


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the report has been made once: 3 methods, 1 partition, 2 seeds."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        report.run(make_tree(root, parameters()))
    return root
