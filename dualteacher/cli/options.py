"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dualteacher.settings import Settings
from dualteacher.system.errors import UserError

DatasetOption = Annotated[str, typer.Option(help="a key of `datasets` in params.yaml")]
PartitionOption = Annotated[str, typer.Option(help="a key of `partition` in params.yaml")]
MethodOption = Annotated[str, typer.Option(help="a key of `methods` in params.yaml")]
SeedOption = Annotated[int, typer.Option(min=0, help="the run's seed")]
WeightsArgument = Annotated[Path, typer.Argument(help="student.safetensors, or the folder of a run that contains it")]


def check_defined(loaded: Settings, names: dict[str, str]) -> None:
    """Raise UserError if params.yaml does not define a name; `names` maps dataset, partition or method to it."""
    defined: dict[str, list[str]] = {
        "dataset": list(loaded.datasets),
        "partition": list(loaded.partition),
        "method": list(loaded.methods),
    }
    for kind, name in names.items():
        if name not in defined[kind]:
            raise UserError(
                f"--{kind} {name}: not defined in params.yaml, which has {', '.join(defined[kind])};"
                " use the params.yaml of that run"
            )
