"""Names and colours of the classes next to a network's weights."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dualteacher.data import class_table
from dualteacher.data.class_table import ClassInfo
from dualteacher.models import named, saved
from dualteacher.models.segmenter import build
from dualteacher.system import files
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError

from .conftest import model

TABLE = class_table.as_json([ClassInfo("sea", (0, 0, 200)), ClassInfo("land", (0, 200, 0))])
OTHER = class_table.as_json([ClassInfo("See", (1, 2, 3)), ClassInfo("Land", (4, 5, 6))])


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """A network of two classes, as training writes it."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.WARNING, "dualteacher")
    saved.save(tmp_path / "student.safetensors", build(model(), 2, None, drop_path=0.0), {"crop": 32})
    return tmp_path / "student.safetensors"


def test_the_table_beside_the_weights_counts(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = weights.read_bytes()
    for table in (TABLE, OTHER):
        named.write(weights, files.sha256(weights), table)
        network, description = named.load(weights)
        assert description["classes"] == table and network.num_classes == 2
    assert weights.read_bytes() == before and not caplog.records
    whole = weights.with_name("whole.safetensors")
    own = {key: value for key, value in description.items() if key not in ("format", "kind")}
    saved.save(whole, network, own, whole=True)
    assert named.load(whole)[1]["classes"] == OTHER and not caplog.records, "one file with everything"


def test_no_table_or_one_of_other_weights_is_no_table(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2):
        assert [entry["name"] for entry in named.load(weights)[1]["classes"]] == ["class 0", "class 1"]
        assert len(caplog.records) == number + 1 and "student.classes.json is missing" in caplog.records[-1].message
        named.write(weights, "0" * 64, TABLE)


@pytest.mark.parametrize("text", ["", "[]", '{"weights_sha256": 1', '{"classes": []}'])
def test_a_damaged_table_is_one_line(weights: Path, text: str) -> None:
    (weights.parent / "student.classes.json").write_text(text)
    with pytest.raises(UserError, match=r"student\.classes\.json: not a valid class table .* run `evaluate` again"):
        named.load(weights)
