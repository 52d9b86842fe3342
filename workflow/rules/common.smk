# What the rules share: checked settings, the grid's cells, the sources of each stage.
import sys
from pathlib import Path

import yaml
from snakemake.utils import validate

sys.path.insert(0, str(workflow.basedir))  # a clone uses its own package, whatever else is installed

from dualteacher import engines

engines.check(config)
validate(config, "../schemas/params.schema.yaml")
engines.set_environment()

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
    return list(dict.fromkeys(expand(pattern, **config["grid"])))


def figures(suffix: str) -> list[str]:
    """The report's figures; dualteacher/reporting/figures.py draws them."""
    kinds = ["curves", "teachers", "pseudo_labels", "confusion", "per_class"]
    names = ["{dataset}-scores", *(f"{{dataset}}-{{partition}}-{kind}" for kind in kinds)]
    return [path for name in names for path in cells(f"results/report/figures/{name}.{suffix}")]
