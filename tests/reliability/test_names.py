"""Hostile names: refused in one line where they would become part of a path or command, harmless as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualteacher import settings
from dualteacher.system.errors import UserError
from tests.workflow.conftest import Project

from .conftest import NAMES, content, parameters, write_parameters

HOSTILE = ["a b", "a'b", 'a"b', "a\nb", "größe", "../x", "a/b", "-x", "--help", "", "x; touch pwned", "$(touch pwned)",
           "{wildcards}", "warmup/..", "A"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("key", ["dataset", "partition"])
def test_a_dataset_or_partition_by_such_a_name_is_refused_in_one_line(key: str, name: str) -> None:
    raw = parameters()
    described = {"dataset": "datasets", "partition": "partition"}[key]
    raw[described] = {name: next(iter(raw[described].values()))}
    raw["grid"][key] = [name]
    with pytest.raises(UserError, match=f"params.yaml: .*{described}|grid.{key}") as caught:
        settings.parse(raw)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_snakemake_and_make_repro_refuse_such_a_name_before_any_job(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project", stub=False)
    raw = parameters()
    raw["datasets"] = {"x; touch pwned": raw["datasets"]["toy"]}
    raw["grid"]["dataset"] = ["x; touch pwned"]
    write_parameters(project.root, raw)
    for command in (("snakemake", "--quiet", "all"), ("make", "repro", "READY=")):
        done = project(*command, code=2)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: params.yaml: ")]
        assert len(errors) == 1 and "x; touch pwned" in errors[0]
        assert not (project.root / "logs").exists() and not (project.root / "pwned").exists()


@pytest.mark.slow
def test_image_files_may_have_such_names(finished: Path) -> None:
    """The images of the whole toy project do, in every test of this folder; those of the engines run it too."""
    images = {path.stem for path in (finished / "own_data").rglob("*.png")}
    assert images >= set(NAMES.values())
    assert not {path for path in finished.rglob("*") if path.name == "pwned"}
    assert content(finished)
