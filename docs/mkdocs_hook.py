"""mkdocs's hook: the site has the repository's paths, and the navigation of docs/README.md.

Pages link to files outside docs/ (examples, benchmarks). mkdocs knows only one folder, so its list of files is replaced
by README.md, the pages of the navigation and the files that they link to.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[1]
INDEX = "docs/README.md"
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^\*\*(.+?)\*\*", re.MULTILINE)  # of a section of the index


def links(page: str) -> list[str]:
    """The files that a page links to, in its order, as paths in the repository."""
    text = BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    found = [target for target in LINK.findall(text) if "://" not in target]
    return [os.path.normpath(Path(page).parent / target) for target in dict.fromkeys(found)]


def navigation() -> list[dict[str, Any]]:
    """mkdocs's `nav`: the sections of the index with the pages that each links to; a page counts once."""
    parts = HEADING.split((ROOT / INDEX).read_text(encoding="utf-8"))
    nav: list[dict[str, Any]] = [{"Home": "README.md"}, {"All pages": INDEX}]
    seen = {"README.md", INDEX}
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        named = [os.path.normpath(f"docs/{target}") for target in LINK.findall(text) if target.endswith(".md")]
        pages = [page for page in dict.fromkeys(named) if page not in seen]
        seen.update(pages)
        nav.append({title.rstrip(" …"): pages})
    return nav


def pages(nav: list[dict[str, Any]]) -> list[str]:
    """The pages of a navigation."""
    return [
        page for entry in nav for value in entry.values() for page in ([value] if isinstance(value, str) else value)
    ]


def on_config(config: Any) -> Any:
    config.nav = navigation()
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")  # anchors as on GitHub
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    named = pages(config.nav)
    for path in dict.fromkeys([*named, *(target for page in named for target in links(page))]):
        page = path.endswith(".md")
        if path in named or (not page and (ROOT / path).is_file()):  # mkdocs reports a missing one
            files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files
