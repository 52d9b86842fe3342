"""The benchmark, and commands about settings files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dualteacher import settings
from dualteacher.system import console


def benchmark(
    model: Annotated[str | None, typer.Option(help="measure only this backbone, at --classes, --size, …")] = None,
    architecture: Annotated[str, typer.Option(help="with --model: segformer, deeplabv3plus or dpt")] = "segformer",
    freeze: Annotated[str, typer.Option(help="with --model: none, backbone or backbone_norms")] = "none",
    classes: Annotated[int, typer.Option(min=2, max=255, help="number of classes")] = 150,
    size: Annotated[int, typer.Option(min=32, help="side of the crop, pixels")] = 256,
    labelled: Annotated[int, typer.Option(min=1, help="labelled images per step")] = 4,
    unlabelled: Annotated[int, typer.Option(min=1, help="unlabelled images per step")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="steps of each kind, interleaved")] = 6,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: one per core")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    json: Annotated[Path | None, typer.Option(help="write the results to this file")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="the small configurations only")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="only profile our training step")] = False,
) -> None:
    """Time and memory of a training step: ours, the plain formulation and the bare network; loader; evaluation.

    Without --model: the configurations of benchmarks/README.md.
    """
    from dualteacher.benchmark import cases, report

    one = [cases.Case(model, classes, size, labelled, unlabelled, architecture, freeze)] if model else None
    chosen = one or (cases.QUICK if quick else cases.ALL)
    console.start()
    if profile:
        report.profiles(chosen, device, threads, repeats)
    else:
        report.main(chosen, device, threads, repeats, json)


def new(
    folder: Annotated[Path, typer.Argument(help="a new or empty folder; with --update, a project")],
    preset: Annotated[
        str | None, typer.Option(help="its first settings: a file in presets/, without .yaml; default: a clone's")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="update a project to the installed package")] = False,
) -> None:
    """Write a project's files: Snakefile, workflow/, dvc.yaml, params.yaml, presets/, profiles/.

    For a package installed by pip; a clone is a project already. In the new folder, run `snakemake --cores all` or
    `dvc repro`. After an upgrade, `new --update .` replaces the files that belong to the release, and the stages whose
    code changed run again; params.yaml, profiles/ and the ignore files stay as they are.
    """
    from dualteacher.commands import new

    if update:
        new.update(folder)
    else:
        new.run(folder, preset)


def check_params(path: Annotated[Path, typer.Argument(help="a settings file")] = Path("params.yaml")) -> None:
    """Validate a settings file; print one line."""
    loaded = settings.load(path)
    print(f"{path}: valid; {len(loaded.grid.rows) * len(loaded.grid.seed)} runs")


def use(preset: Annotated[str, typer.Argument(help="name of a file in presets/, without .yaml")]) -> None:
    """Write a preset to params.yaml, in full; the old file is kept as params.yaml.bak."""
    from dualteacher.workflow import presets

    presets.use(preset)


def diff_params(
    preset: Annotated[str, typer.Argument(help="name of a preset")] = "base",
    path: Annotated[Path, typer.Option("--params", help="the settings file to compare")] = Path("params.yaml"),
) -> None:
    """List the keys in which params.yaml differs from a preset, one per line: the preset's value, then yours."""
    from dualteacher.workflow import presets

    ours = settings.load(path).model_dump(mode="json")
    theirs = settings.parse(presets.load(preset), preset).model_dump(mode="json")
    for key, mine, other in presets.differences(ours, theirs):
        shown = ["(none)" if value is ... else presets.spell(value) for value in (other, mine)]
        print(f"{key}: {shown[0]} → {shown[1]}")


COMMANDS: tuple[Callable[..., None], ...] = (new, benchmark, check_params, use, diff_params)
