"""docs/reference/cli.md: the `--help` of each command."""

from __future__ import annotations

from typing import Any

import typer

from dualteacher.cli import app

WIDTH = 100
HEAD = """# Commands

<!-- written by `make reference` from dualteacher/cli/ -->

Run `python -m dualteacher COMMAND` in the project's folder, in its environment (`. .venv/bin/activate`). Snakemake and
DVC call the stages, `download` to `report`. `torchrun … -m dualteacher` runs `warmup`, `train` and `evaluate` in
several processes ([scaling.md](../scaling.md)).

| exit code | |
|--:|---|
| 0 | success |
| 1 | a check found errors, or an input file could not be used; with a traceback, a bug |
| 2 | an error that you can fix, explained in one line |
| 75 | stopped on request with the state saved; run the same command again to resume |
| 130 | interrupted |
"""


def commands() -> dict[str, Any]:
    """Typer's commands by name, in the order of `--help`."""
    return typer.main.get_command(app).commands  # type: ignore[attr-defined]


def page() -> str:
    """The page's text."""
    parts = [HEAD]
    for name, command in commands().items():
        context = command.make_context(
            f"python -m dualteacher {name}", [], resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH
        )
        parts.append(f"## {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)
