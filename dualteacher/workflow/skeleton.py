"""The files of the pipeline that a project outside a clone needs. setup.py copies them into the wheel.

Uses the standard library only, at import: setup.py runs this file by itself.
"""

from __future__ import annotations

from pathlib import Path

PACKAGED = "skeleton"  # their folder in the installed package

# Belong to the project's owner: written once, never updated.
OWNED = (".dvc/config", ".dvcignore", ".gitignore", "profiles/*/config.yaml", "*data/README.md", "results/README.md")
# Belong to the release: `new --update` replaces them. dvc.yaml, workflow/code* and params.yaml are generated.
RELEASED = (
    *("Snakefile", ".dvc/.gitignore", ".dvc/plots/*.json", "presets/*.yaml"),
    *("workflow/Snakefile", "workflow/rules/*.smk", "workflow/captions/**/*.rst", "workflow/schemas/*.yaml"),
)


def files(root: Path, patterns: tuple[str, ...] = OWNED + RELEASED) -> list[str]:
    """The files below `root` that match, relative to it."""
    return sorted({path.relative_to(root).as_posix() for pattern in patterns for path in root.glob(pattern)})


def home() -> Path:
    """Where this package's skeleton lies: in the installed package, or the clone."""
    package = Path(__file__).parents[1]
    for place in (package / PACKAGED, package.parent):
        if (place / "Snakefile").is_file():
            return place
    from dualteacher.system.errors import UserError

    raise UserError(f"{package / PACKAGED}: the pipeline's files are missing; install the wheel again")
