"""The docs site: its navigation has every page; mkdocs, where it is installed, builds it without a broken link."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.docs import pages
from tests.docs.pages import ROOT

CONFIG = ROOT / "mkdocs.yml"
ELSEWHERE = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^"'>\s]+""")


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    pytest.importorskip("pymdownx", reason="the docs site's packages are not installed")
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "docs" / "mkdocs_hook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation_once(hook: ModuleType) -> None:
    named = hook.pages(hook.navigation())
    expected = {name for page in pages.pages() if (name := str(page.relative_to(ROOT))).startswith("docs/")}
    assert sorted(named) == sorted(expected | {"README.md"})
    assert [section for entry in hook.navigation() for section in entry][2:] == [
        "Tutorials", "How to", "Reference", "Explanation",
    ]  # fmt: skip


def test_nothing_is_fetched_from_elsewhere() -> None:
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    assert config["strict"] is True and config["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css"} & set(config) and config["plugins"] == ["search"]
    assert (ROOT / config["docs_dir"]).is_dir() and all((ROOT / name).is_file() for name in config["hooks"])
    assert f"/{config['site_dir']}/" in (ROOT / ".gitignore").read_text().split()


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(hook: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--site-dir", tmp_path]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    for page in hook.pages(hook.navigation()):
        name = re.sub(r"(^|/)README$", r"\1index", page.removesuffix(".md")) + ".html"
        assert not ELSEWHERE.findall((tmp_path / name).read_text(encoding="utf-8")), name
