# Shared by the rules: validated settings, the grid, and the source files of each stage.
from pathlib import Path

import yaml
from snakemake.utils import validate

from dualteacher import settings
from dualteacher.reporting import figure_names
from dualteacher.workflow import stamps

engines.check(config)
if workflow.exec_mode.name == "DEFAULT":  # not in cluster jobs
    engines.clear_locks()
validate(config, "../schemas/params.schema.yaml")
engines.set_environment()

GRID = settings.Grid(**config["grid"])

# Source files that affect each stage's results. As inputs, they trigger reruns when edited.
CODE = yaml.safe_load(Path(str(workflow.current_basedir), "../code.yaml").read_text(encoding="utf-8"))


wildcard_constraints:
    dataset="[a-z][a-z0-9_]*",
    partition="[a-z][a-z0-9_]*",
    method="|".join(config["methods"]),  # excludes "warmup", whose folder is next to theirs
    seed="[0-9]+",


def own_data(wildcards) -> list[str]:
    """For a dataset from a user's folder, its file listing with timestamps, so that new or changed images rerun."""
    described = config["datasets"][wildcards.dataset]
    return [engines.watch(config["watched"])] if described["source"] == "folder" else []


def read_as(wildcards) -> dict:
    """A dataset's settings without the classes' names and colours: renaming a class must not retrain."""
    return engines.without_looks(config["datasets"][wildcards.dataset])


def own_weights(wildcards) -> list[str]:
    """The user's own checkpoint, so that a change reruns the stage. DVC cannot: model.weights may be no file."""
    return engines.own_weights(config["model"])


def cells(pattern: str) -> list[str]:
    """`pattern` expanded over the grid, without duplicates."""
    rows = [dict(zip(("dataset", "partition", "method"), row)) for row in GRID.rows]
    return list(dict.fromkeys(pattern.format(**row, seed=seed) for row in rows for seed in GRID.seed))


def method_file(wildcards) -> str:
    """Source file of the method's kind; editing it reruns only the methods of that kind."""
    return stamps.method_file(config["methods"][wildcards.method]["kind"])


def figures(suffix: str) -> list[str]:
    """Files of the report's figures with this suffix."""
    return [str(path) for path in figure_names.files_of(GRID, (suffix,))]


def captioned(paths: list[str]) -> list[str]:
    """Figures for `snakemake --report`, each with its caption, grouped by dataset and partition."""
    marked = []
    for path in paths:
        *place, kind = Path(path).stem.split("-")  # dataset and partition names contain no dash
        labels, place = {"figure": kind.replace("_", " ")}, ", ".join(place)
        caption = f"../captions/figures/{kind}.rst"
        marked += [report(path, caption=caption, category="Figures", subcategory=place, labels=labels)]
    return marked
