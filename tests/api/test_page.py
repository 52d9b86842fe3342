"""docs/python.md: its examples run in the order of the page, and its tables list what there is."""

from __future__ import annotations

import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import dualteacher
from dualteacher.api.model import Model, PredictOptions
from tests.api.test_train import SMALL, folders, here  # noqa: F401
from tests.cli.conftest import picture, save_network
from tests.docs import pages

PAGE = "docs/python.md"
TEXT = (pages.ROOT / PAGE).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_examples_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    train = dualteacher.train

    def shorter(*given: Any, **named: Any) -> Model:
        """With a network and a length for tests; the page's own settings count."""
        settings = {
            key: value | named.get(key, {}) if isinstance(value, dict) else value for key, value in SMALL.items()
        }
        return train(*given, **named | settings)

    monkeypatch.setattr(dualteacher, "train", shorter)
    folders("photos")
    picture("photo.jpg", 40, 30)
    save_network("student.safetensors")
    blocks = [block.text for block in pages.blocks() if block.page == PAGE and block.language == "python"]
    assert len(blocks) == 5
    Path("page.py").write_text("".join(blocks))
    names = runpy.run_path("page.py")
    told = re.search(r"print\(error\)  # (.*)", TEXT)
    assert told is not None and capsys.readouterr().out.splitlines()[-1] == told[1]
    assert names["found"].mask.shape == (30, 40) and Path("mask.png").is_file()
    assert Path("project/onnx/model.onnx").is_file()
    parameters = names["model"].description["parameters"]
    assert (parameters["model"]["head_width"], parameters["augment"]["scale"]) == (64, [0.5, 2.0])


def test_the_tables_list_every_option() -> None:
    rows = {name for row in re.findall(r"^\| (`.*?) \| ", TEXT, re.MULTILINE) for name in re.findall(r"`(\w+)", row)}
    arguments = set(inspect.signature(dualteacher.train).parameters) - {"settings"}
    assert set(PredictOptions.__annotations__) | arguments <= rows
    assert {"classes", "metrics", "description", "network", "save", "export"} <= rows
