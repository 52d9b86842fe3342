"""A mistake in params.yaml, or settings given elsewhere, end every entry in one readable line."""

from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.slow

ENTRIES = {
    "snakemake": ["snakemake", "--dry-run"],
    "command": [sys.executable, "-m", "dualteacher", "prepare", "--dataset", "bluemarble"],
}


def complaint(done) -> str:
    """The one line that says `error:`; nothing like a traceback anywhere."""
    text = done.stdout + done.stderr
    assert "Traceback" not in text and "Building DAG" not in text
    (line,) = [line for line in text.splitlines() if "error" in line.lower()]
    return line


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_mistake_in_params_is_one_line_that_names_it(project, entry):
    made = project(stub=False)
    made.edit("model.dropuot", 0.1)
    assert "unknown key 'model.dropuot'" in complaint(made(*ENTRIES[entry], code=2))


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_unreadable_params_is_one_line_before_the_engine_reads_it(project, entry):
    made = project(stub=False)
    path = made.root / "params.yaml"
    good = path.read_text(encoding="utf-8")
    path.write_bytes(good.encode("utf-16"))
    assert "params.yaml: saved as UTF-16 or UTF-32; save it as UTF-8" in complaint(made(*ENTRIES[entry], code=2))
    path.write_text(f"{good}\nmodel: {{}}\n", encoding="utf-8")
    assert "key 'model' is written twice" in complaint(made(*ENTRIES[entry], code=2))
    path.write_text("grid: [", encoding="utf-8")
    assert "params.yaml line 1: not valid YAML" in complaint(made(*ENTRIES[entry], code=2))


def test_snakemake_says_which_value_is_impossible(project):
    made = project()
    made.edit("train.learning_rate", "1e-3")
    line = complaint(made("snakemake", "--dry-run", code=2))
    assert "train.learning_rate" in line and "1e-3" in line and "0.001" in line


@pytest.mark.parametrize("how", ["--config", "--configfile"])
def test_snakemake_refuses_settings_from_elsewhere(project, how):
    made = project()
    (made.root / "other.yaml").write_text("train: {learning_rate: 0.5}\n")
    value = {"--config": "train={learning_rate: 0.5}", "--configfile": "other.yaml"}[how]
    line = complaint(made("snakemake", "--dry-run", how, value, code=2))
    assert "params.yaml" in line and how in line


def test_snakemake_plans_in_a_locale_without_unicode(project):
    """Its own reader takes the profile in the locale's encoding."""
    made = project()
    made.warm = False
    made.environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert "report" in made("snakemake", "--dry-run").stdout
