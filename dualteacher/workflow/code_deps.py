"""Writes the files that are made from the code; `make code-deps` calls it and a test fails when one is outdated.

dvc.yaml is made whole; workflow/code.yaml lists for Snakemake the sources that each stage uses, so that an edit reruns
what it changes. workflow/schemas/params.schema.yaml is the JSON schema of params.yaml.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from dualteacher.system import files
from dualteacher.workflow import dvc_yaml
from dualteacher.workflow.contracts import STAGES
from dualteacher.workflow.sources import closure, method_files

CODE = Path("workflow/code.yaml")
DVC = Path("dvc.yaml")
SCHEMA = Path("workflow/schemas/params.schema.yaml")


def code_yaml(lists: dict[str, list[str]]) -> str:
    """The text of workflow/code.yaml."""
    head = (
        "# The sources that can change each stage's numbers; `make code-deps` writes this list and dvc.yaml's.\n"
        "# The file of a cell's method is added by the train stage's own rule.\n"
    )
    return head + yaml.safe_dump(lists, sort_keys=False, default_flow_style=False)


def schema_yaml() -> str:
    """The JSON schema of params.yaml, made from the typed settings."""
    from dualteacher.settings import Settings

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}
    head = "# Made from dualteacher/settings/ by `make code-deps`; for editors and for Snakemake's validate().\n"
    return head + yaml.safe_dump(_without_defaults(schema), sort_keys=False, allow_unicode=True, width=110)


def _without_defaults(node: object) -> object:
    """Snakemake's validate() would fill defaults in: what is not in params.yaml must not exist."""
    if isinstance(node, dict):
        return {key: _without_defaults(value) for key, value in node.items() if key != "default"}
    return [_without_defaults(value) for value in node] if isinstance(node, list) else node


def wanted(root: Path = Path()) -> dict[Path, str]:
    """What the three written files should hold."""
    lists = {stage: closure(stage, root) for stage in STAGES}
    # DVC cannot look up a method's kind: there a cell depends on the files of all kinds.
    with_methods = sorted({*lists["train"], *method_files()})
    return {
        CODE: code_yaml(lists),
        DVC: dvc_yaml.text(lists | {"train": with_methods}),
        SCHEMA: schema_yaml(),
    }


def main() -> None:
    for path, text in wanted().items():
        print(f"{path}: {'rewritten' if files.update_text(path, text) else 'up to date'}")


if __name__ == "__main__":
    main()
