"""Files made by one engine are taken over by the other, which then sees the next edit."""

from __future__ import annotations

import json

import pytest
from conftest import Project
from test_rerun import AFTER_TRAINING

from dualteacher.reporting import figure_names
from tests.docs import pages

pytestmark = pytest.mark.slow
PAGE = "docs/compare-experiments.md"


def make(made: Project, target: str, code: int = 0) -> str:
    """Run a target of the project's Makefile with the interpreter of the tests (no .venv in the copy)."""
    done = made("make", target, "READY=Makefile", code=code)
    return done.stdout + done.stderr


def test_dvc_takes_over_what_snakemake_made_and_experiments_go_on_from_there(project):
    """The commands of docs/compare-experiments.md, in the order of the page."""
    made = project()
    assert "error: Snakemake has unfinished jobs" in make(made, "adopt-dvc", code=2)
    assert not (made.root / "dvc.lock").exists()
    made.environment = {"GNUMAKEFLAGS": "READY=Makefile"}
    said, ran = {}, {}
    for command in (command for command in pages.commands() if command.page == PAGE):
        done = made("bash", "-euo", "pipefail", "-c", command.text)
        said[command.bare], ran[command.bare] = done.stdout + done.stderr, made.ran()
        if command.bare == "make run":
            check_report_of_snakemake(made)
    assert len(ran["make run"]) == 11
    assert "up to date" in said["make adopt-dvc"]
    slow = "dvc exp run --name slow -S 'train.learning_rate=0.0001'"
    assert ran[slow] == AFTER_TRAINING
    (head,) = [line for line in said["make exp-show"].splitlines() if "Experiment" in line]
    assert {"train.learning_rate", "optimizer.name"} <= set(head.split()) and len(head.split()) <= 6, head
    assert sum("slow" in line for line in said["make exp-show"].splitlines()) == 1
    assert "slow" in said["dvc exp show --csv"] and "train.learning_rate" in said["dvc exp diff slow sgd"]
    assert "train.learning_rate" in said["dvc params diff"] and "optimizer.name" in said["dvc params diff"]
    assert "dual_teacher" in said["dvc metrics diff"]

    drawn = json.loads(made("dvc", "plots", "diff", "HEAD", "slow", "--json").stdout)["data"]
    plot = drawn["results/report/curves.csv"][0]["content"]
    points = plot["data"]["values"]
    assert {(point["rev"], point["method"]) for point in points} == {
        (rev, method) for rev in ("HEAD", "slow") for method in ("supervised", "dual_teacher")
    }
    assert plot["encoding"]["color"]["field"] == "method" and plot["encoding"]["strokeDash"]["field"] == "rev"
    made("dvc", "plots", "show")
    assert "val_miou" in (made.root / "dvc_plots" / "index.html").read_text()


def check_report_of_snakemake(made: Project) -> None:
    """Each figure of the page is in it, with its own caption."""
    make(made, "report")
    carried = (made.root / "results/snakemake.html").read_text()
    for kind in figure_names.KINDS:
        assert f"bluemarble-eighth-{kind}.svg" in carried
        assert (made.root / f"workflow/captions/figures/{kind}.rst").read_text().split(":")[0].split("\n")[0] in carried


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
