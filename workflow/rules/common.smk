# What the rules share: checked settings, the grid's cells, the sources of each stage.
import sys
from pathlib import Path

import yaml
from snakemake.utils import validate

sys.path.insert(0, str(workflow.basedir))  # a clone uses its own package, whatever else is installed

from dualteacher import settings
from dualteacher.reporting import kinds
from dualteacher.workflow import engines

engines.check(config)
if workflow.exec_mode.name == "DEFAULT":  # not in the jobs of a cluster
    engines.clear_locks()
validate(config, "../schemas/params.schema.yaml")
engines.set_environment()

GRID = settings.Grid(**config["grid"])

# The sources that can change a stage's numbers; neither engine would notice an edit otherwise.
CODE = yaml.safe_load(Path(workflow.basedir, "workflow/code.yaml").read_text(encoding="utf-8"))


wildcard_constraints:
    dataset="[a-z][a-z0-9_]*",
    partition="[a-z][a-z0-9_]*",
    method="|".join(config["methods"]),  # never "warmup", whose folder lies beside theirs
    seed="[0-9]+",


def own_data(wildcards) -> list[str]:
    """For a folder of one's own, a list of its files with their times: a new or changed photo is noticed."""
    described = config["datasets"][wildcards.dataset]
    return [engines.watch(config["watched"])] if described["source"] == "folder" else []


def cells(pattern: str) -> list[str]:
    """`pattern` for every cell of the grid, each path once."""
    rows = [dict(zip(("dataset", "partition", "method"), row)) for row in GRID.rows]
    return list(dict.fromkeys(pattern.format(**row, seed=seed) for row in rows for seed in GRID.seed))


def method_file(wildcards) -> str:
    """The source of a cell's method: an edit of it reruns the cells of its kind only."""
    return f"dualteacher/methods/{config['methods'][wildcards.method]['kind']}.py"


def figures(suffix: str) -> list[str]:
    """The report's figures."""
    return [str(path) for path in kinds.files_of(GRID, (suffix,))]


def captioned(paths: list[str]) -> list[str]:
    """The figures for `snakemake --report`: each with its kind's caption, sorted by dataset and partition."""
    marked = []
    for path in paths:
        *place, kind = Path(path).stem.split("-")  # no name of a dataset or partition has a dash
        labels, place = {"figure": kind.replace("_", " ")}, ", ".join(place)
        caption = f"../report/figures/{kind}.rst"
        marked += [report(path, caption=caption, category="Figures", subcategory=place, labels=labels)]
    return marked
