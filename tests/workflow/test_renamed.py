"""Names and colours of classes: which stages depend on them, and which must not."""

from __future__ import annotations

import yaml
from conftest import ROOT
from test_own_data import FOLDER

from dualteacher.system import paths
from dualteacher.workflow import contracts, engines

DRAWING = {"classes", "evaluate", "report"}
READ_AS = ("download", "prepare")  # depend on the dataset's settings, but for the names and colours


def test_only_what_is_drawn_depends_on_names_and_colours() -> None:
    by_params = {c.stage for c in contracts.CONTRACTS if "datasets.{dataset}" in c.params}
    assert by_params == {*READ_AS, "classes"}
    named = set(contracts.BY_STAGE["classes"].outputs)
    assert paths.Dataset("{dataset}").classes in named
    while grown := {
        path for c in contracts.CONTRACTS if named & {*c.inputs} for path in c.outputs if path not in named
    }:
        named |= grown
    assert {c.stage for c in contracts.CONTRACTS if named & {*c.outputs}} == DRAWING


def test_dvc_tracks_the_class_table_where_it_is_drawn_and_nowhere_else() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    table = "data/${item.dataset}/classes.json"
    using = {name.partition("_")[0] for name, stage in stages.items() if table in stage.get("deps", [])}
    assert using == {"evaluate"}, "the report follows: it depends on all runs"
    assert {name for name, stage in stages.items() if "datasets.${item.dataset}" in stage.get("params", [])} == {
        *READ_AS,
        "classes",
    }


def test_snakemake_compares_settings_without_them() -> None:
    rules = (ROOT / "workflow/rules/data.smk").read_text(encoding="utf-8")
    for rule in rules.split("\nrule ")[1:]:
        name = rule.partition(":")[0]
        assert ("dataset=read_as," in rule) == (name in READ_AS), name
    first, second = FOLDER["classes"]
    other = FOLDER | {"classes": [first | {"name": "sea", "color": [9, 9, 9]}, second]}
    assert engines.without_looks(other) == engines.without_looks(FOLDER)
    for change in (
        {"classes": [second, first]},
        {"classes": [first | {"value": 7}, second]},
        {"ignore": [255]},
        {"classes": [first | {"value": [0, 0, 0]}, second | {"value": [9, 9, 9]}]},
    ):
        assert engines.without_looks(FOLDER | change) != engines.without_looks(FOLDER)
    drawn = {"source": "textures", "size": 64}
    assert engines.without_looks(drawn) == drawn
