"""Command-line interface.

Exit codes: 0 success; 1 a check or some input failed, or a bug (with a traceback); 2 an error the user can fix;
75 stopped on request with its state saved, rerun to resume; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from dualteacher import __version__
from dualteacher.cli import data, networks, stages, tools
from dualteacher.system import console, os_errors
from dualteacher.system.errors import RESUME, Interrupted, UserError

app = typer.Typer(
    name="dualteacher",
    help="Semi-supervised semantic segmentation with Dual Teacher.\n\n"
    "Snakemake (`snakemake --cores all`) and DVC (`dvc repro`) run the stages, from `download` to `report`, in order;"
    " you can also run each one by hand. All settings come from params.yaml.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        print(f"dualteacher {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


for group in (stages, data, networks, tools):  # the order of --help
    for command in group.COMMANDS:
        app.command()(command)


def main() -> None:
    """Entry point."""
    guarded(lambda: app(standalone_mode=True))


def guarded(program: Callable[[], object]) -> None:
    """Run a program; turn expected exceptions into one line on stderr and an exit code."""
    console.use_utf8()
    try:
        program()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Interrupted as stopped:
        if console.is_rank_zero():
            print(f"stopped: {stopped}", file=sys.stderr)
        raise SystemExit(75) from None
    except KeyboardInterrupt:
        print(f"interrupted; {RESUME}", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        print(f"error: {os_errors.explain(error)}", file=sys.stderr)
        raise SystemExit(2) from None
