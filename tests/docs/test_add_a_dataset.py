"""docs/add-a-dataset.md: its blocks, put where it says, make a data set that is prepared and checked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from dualteacher.workflow import presets
from tests.docs import pages
from tests.docs.pages import ROOT

PAGE = "docs/add-a-dataset.md"
SCRIPT = """
import shlex, sys
from dualteacher import cli
for command in sys.argv[1:]:
    cli.app(shlex.split(command), standalone_mode=False)
"""


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path}: {old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.slow
def test_the_example_is_prepared_and_checked(tmp_path: Path) -> None:
    source, section, case = (b.text for b in pages.blocks() if b.page == PAGE and b.language == "python")
    (described,) = (b.text for b in pages.blocks() if b.page == PAGE and b.language == "yaml")
    shutil.copytree(ROOT / "dualteacher", tmp_path / "dualteacher", ignore=shutil.ignore_patterns("__pycache__"))
    place = tmp_path / "dualteacher" / "data" / "sources"
    (place / "shapes.py").write_text(source)
    settings = tmp_path / "dualteacher" / "settings" / "datasets.py"
    edit(settings, "\nAnyDataset", f"\n{section}\n\nAnyDataset")
    edit(settings, "    BlueMarble | LandCover", "    Shapes | BlueMarble | LandCover")
    edit(place / "__init__.py", "        case settings.BlueMarble():\n", f"{case}        case settings.BlueMarble():\n")

    raw = presets.load("tiny", ROOT / "presets")
    raw["datasets"] |= yaml.safe_load(textwrap.dedent(described))
    raw["grid"]["dataset"] = ["shapes"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    asked = [c.bare for c in pages.commands() if c.page == PAGE and c.bare != "make plan"]
    assert [command.split()[3] for command in asked] == ["download", "prepare", "classes", "check-data"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *(command.removeprefix("python -m dualteacher ") for command in asked)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "shapes: 0 errors" in done.stdout + done.stderr
    assert (tmp_path / "data/shapes/contact_sheet.png").is_file()
