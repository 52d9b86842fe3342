"""Write docs/reference; a test fails if a page is outdated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dualteacher.system import files
from dualteacher.workflow.reference import cli, formats, params

FOLDER = Path("docs/reference")
PAGES: dict[str, Callable[[], str]] = {"params.md": params.page, "cli.md": cli.page, "files.md": formats.page}


def main() -> None:
    """Write the pages that have changed."""
    for name, page in PAGES.items():
        if files.update_text(FOLDER / name, page()):
            print(f"{FOLDER / name}: rewritten")
    print(f"{len(PAGES)} pages are up to date")


if __name__ == "__main__":
    main()
