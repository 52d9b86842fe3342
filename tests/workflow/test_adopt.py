"""Files made by one engine are taken over by the other, which then sees the next edit."""

from __future__ import annotations

import json

import pytest
from conftest import Project
from test_rerun import AFTER_TRAINING

from dualteacher.reporting import figure_names

pytestmark = pytest.mark.slow


def make(made: Project, target: str, code: int = 0) -> str:
    """Run a target of the project's Makefile with the interpreter of the tests (no .venv in the copy)."""
    done = made("make", target, "READY=Makefile", code=code)
    return done.stdout + done.stderr


def test_dvc_takes_over_what_snakemake_made_and_experiments_go_on_from_there(project):
    made = project()
    assert "error: Snakemake has unfinished jobs" in make(made, "adopt-dvc", code=2)
    assert not (made.root / "dvc.lock").exists()
    made("snakemake", "--quiet", "all")
    made.ran()
    make(made, "report")
    carried = (made.root / "results/snakemake.html").read_text()
    for kind in figure_names.KINDS:  # each figure of the page, with its own caption
        assert f"bluemarble-eighth-{kind}.svg" in carried
        assert (made.root / f"workflow/captions/figures/{kind}.rst").read_text().split(":")[0].split("\n")[0] in carried
    assert "up to date" in make(made, "adopt-dvc")
    made("git", "add", "--all")
    made("git", "commit", "--quiet", "--message", "start")

    made("dvc", "exp", "run", "--quiet", "--name", "fast", "--set-param", "train.learning_rate=0.5")
    assert made.ran() == AFTER_TRAINING
    table = make(made, "exp-show")
    (head,) = [line for line in table.splitlines() if "Experiment" in line]
    assert "train.learning_rate" in head and len(head.split()) <= 5, table
    assert sum("fast" in line for line in table.splitlines()) == 1
    assert "train.learning_rate" in made("dvc", "params", "diff").stdout
    assert "dual_teacher" in made("dvc", "metrics", "diff").stdout
    drawn = json.loads(made("dvc", "plots", "diff", "HEAD", "fast", "--json").stdout)["data"]
    plot = drawn["results/report/curves.csv"][0]["content"]
    points = plot["data"]["values"]
    assert {(point["rev"], point["method"]) for point in points} == {
        (rev, method) for rev in ("HEAD", "fast") for method in ("supervised", "dual_teacher")
    }
    assert plot["encoding"]["color"]["field"] == "method" and plot["encoding"]["strokeDash"]["field"] == "rev"
    made("dvc", "plots", "show")
    assert "val_miou" in (made.root / "dvc_plots" / "index.html").read_text()


def test_snakemake_takes_over_what_dvc_made(project):
    made = project()
    assert "error: DVC has unfinished stages" in make(made, "adopt-snakemake", code=2)
    made("dvc", "repro", "--quiet")
    made.ran()
    assert "nothing to be done" in make(made, "adopt-snakemake")
    made("dvc", "status", "--quiet")
    made.edit("train.learning_rate", 0.5)
    made("snakemake", "--quiet", "all")
    assert made.ran() == AFTER_TRAINING
