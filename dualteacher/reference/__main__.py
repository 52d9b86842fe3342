"""Write docs/reference anew; a test fails while a page is not what this writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dualteacher.reference import cli, formats, params

FOLDER = Path("docs/reference")
PAGES: dict[str, Callable[[], str]] = {"params.md": params.page, "cli.md": cli.page, "files.md": formats.page}


def main() -> None:
    """Write the pages that have changed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        path, text = FOLDER / name, page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"{path}: rewritten")
    print(f"{len(PAGES)} pages are up to date")


if __name__ == "__main__":
    main()
