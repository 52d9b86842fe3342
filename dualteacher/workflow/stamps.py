"""Track an installed package's sources in a project outside a clone.

There, the engines cannot depend on the source files. Instead workflow/code/ has a text file for each stage, with the
hash of every source file that affects it. `new` writes them, `new --update` brings them up to date, and all stages
check that they describe the installed package. So an upgrade reruns exactly the stages whose sources differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dualteacher import __version__
from dualteacher.system import files
from dualteacher.system.errors import UserError
from dualteacher.workflow import sources
from dualteacher.workflow.contracts import STAGES

FOLDER = Path("workflow/code")
ROOT = Path(__file__).parents[2]  # of the package: site-packages, or the clone


def of_stage(stage: str) -> str:
    return str(FOLDER / f"{stage}.txt")


def of_method(kind: str) -> str:
    return str(FOLDER / "methods" / f"{kind}.txt")


def method_file(kind: str) -> str:
    """What depends on a method's source file: the file itself in a clone, else its stamp."""
    source = f"dualteacher/methods/{kind}.py"
    return source if Path(source).exists() else of_method(kind)


def texts() -> dict[str, str]:
    """The content of each stamp, by path, for this package."""
    lists = {of_stage(stage): sources.closure(stage, ROOT) for stage in STAGES}
    lists |= {of_method(Path(name).stem): [name] for name in sources.method_files()}
    digests = {name: files.sha256(ROOT / name) for names in lists.values() for name in names}
    return {stamp: "".join(f"{digests[name]}  {name}\n" for name in names) for stamp, names in lists.items()}


def lists() -> Mapping[str, list[str]]:
    """The stamps that each stage depends on, without those of the methods."""
    return {stage: [of_stage(stage)] for stage in STAGES}


def check() -> None:
    """UserError if this folder's stamps describe another version of the package. Nothing to do in a clone."""
    lines = {line for stamp in FOLDER.rglob("*.txt") for line in stamp.read_text(encoding="utf-8").splitlines()}
    for line in sorted(lines):
        digest, _, name = line.partition("  ")
        if not (ROOT / name).is_file() or files.sha256(ROOT / name) != digest:
            raise UserError(
                f"{FOLDER}: {name} is another in the installed dualteacher {__version__}, so this project's files may"
                " be outdated; run `python -m dualteacher new --update .`"
            )
