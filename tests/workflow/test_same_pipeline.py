"""Snakemake and DVC run the same commands on the same files with the same parameters and sources."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import stub
from conftest import ROOT

from dualteacher.workflow import contracts, presets, sources

pytestmark = pytest.mark.slow

# In DVC, a folder stands for the files in it; Snakemake watches own_data only for datasets that lie there.
FOLDERS = ("results/runs", "results/report/figures", "own_data")
# Read by the report, and for DVC part of what the runs in results/runs were made from.
FOLLOWS = ("classes.json", "val.arrow", ".provenance.json")


GRID = {
    **{"dataset": ["bluemarble"], "partition": ["eighth", "quarter"], "method": ["supervised", "dual_teacher"]},
    **{"seed": [0, 1]},
    "also": {
        "bound": {"partition": ["full"], "method": ["supervised"]},
        "ablation": {"partition": ["eighth"], "method": ["mean_teacher"]},
    },
}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Both engines' jobs for the default settings with every kind of cell."""
    from conftest import Project

    made = Project(tmp_path_factory.mktemp("jobs"), stub=False)
    made.edit("grid", GRID)
    return json.loads(made(sys.executable, str(Path(__file__).with_name("jobs.py"))).stdout)


@pytest.fixture(scope="module")
def params():
    return presets.load("bluemarble", ROOT / "presets") | {"grid": GRID}


def expected_commands(grid):
    yield "python -m dualteacher download --weights"
    yield "python -m dualteacher report"
    also = grid["also"]
    methods = dict.fromkeys(grid["partition"], grid["method"])
    methods |= {
        partition: methods[partition] + also["ablation"]["method"] for partition in also["ablation"]["partition"]
    }
    methods |= dict.fromkeys(also["bound"]["partition"], also["bound"]["method"])
    for dataset in grid["dataset"]:
        yield f"python -m dualteacher download --dataset {dataset}"
        yield f"python -m dualteacher prepare --dataset {dataset}"
        yield f"python -m dualteacher classes --dataset {dataset}"
        for partition in methods:
            for seed in grid["seed"]:
                cell = f"--dataset {dataset} --partition {partition} --seed {seed}"
                yield f"python -m dualteacher partition {cell}"
                yield f"python -m dualteacher warmup {cell}"
                for method in methods[partition]:
                    cell = f"--dataset {dataset} --partition {partition} --method {method} --seed {seed}"
                    yield f"python -m dualteacher train {cell}"
                    yield f"python -m dualteacher evaluate {cell}"


@pytest.mark.parametrize("engine", ["snakemake", "dvc"])
def test_each_engine_runs_every_cell_of_the_grid_once(jobs, params, engine):
    assert sorted(jobs[engine]) == sorted(expected_commands(params["grid"]))


def test_commands_and_parameters_are_equal(jobs):
    assert jobs["snakemake"].keys() == jobs["dvc"].keys()
    for command, job in jobs["snakemake"].items():
        assert job["params"] == jobs["dvc"][command]["params"], command


def test_files_are_equal(jobs):
    for command, job in jobs["snakemake"].items():
        other = jobs["dvc"][command]
        for side in ("inputs", "outputs"):
            ours, theirs = set(job[side]), set(other[side])
            folders = theirs & set(FOLDERS)
            missing = {path for path in ours - theirs if not any(path.startswith(f"{f}/") for f in folders)}
            if command.endswith(" report") and side == "inputs":
                missing = {path for path in missing if not path.endswith(FOLLOWS)}
            assert not missing, f"{command}: {side} that only Snakemake declares"
            # DVC cannot look a method's kind up: its cells depend on the sources of all methods
            methods = set(sources.method_files()) if " train " in command and side == "inputs" else set()
            assert theirs - ours == folders | (methods - ours), f"{command}: {side} that only DVC declares"
            assert methods <= theirs


def test_files_and_parameters_are_those_of_the_contracts(jobs, params):
    for command, job in jobs["snakemake"].items():
        arguments, stage = stub.parse(command.split()[3:])
        inputs, outputs = stub.files(stage, arguments, params)
        declared = {path for path in job["inputs"] if not path.startswith("dualteacher/")}
        assert {str(path) for path in outputs} == set(job["outputs"]), command
        assert {str(path) for path in inputs} == declared, command
        own = {"datasets": "dataset", "partition": "partition", "methods": "method"}  # one entry of a section
        keys = [key.partition(".") for key in contracts.BY_STAGE[stage].params]
        names = {own[first] if "{" in rest else rest or first for first, _, rest in keys}
        assert job["params"].keys() == names, command
        assert job["log"] == [str(stub.log_of(arguments, stage))], command


def test_the_reports_figures_are_those_it_draws(jobs, params):
    from dualteacher.reporting.figure_names import files_of
    from dualteacher.settings import Grid

    declared = {path for path in jobs["snakemake"]["python -m dualteacher report"]["outputs"] if "/figures/" in path}
    assert declared == {str(path) for path in files_of(Grid(**params["grid"]))}
