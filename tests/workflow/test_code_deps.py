"""An edited source reruns the stages that use it, and only those: the declared lists are the real imports."""

from __future__ import annotations

import difflib

import pytest
from conftest import ROOT

from dualteacher.workflow import code_deps, sources


@pytest.mark.parametrize("path", [code_deps.CODE, code_deps.DVC, code_deps.SCHEMA], ids=str)
def test_written_lists_are_current(path):
    written = (ROOT / path).read_text(encoding="utf-8")
    wanted = code_deps.wanted(ROOT)[path]
    difference = difflib.unified_diff(written.splitlines(), wanted.splitlines(), "written", "wanted", lineterm="", n=0)
    if written != wanted:
        pytest.fail(f"{path} is outdated: run `make code-deps`\n" + "\n".join(difference), pytrace=False)


BY_NAME = "import importlib\ndef build(name): importlib.import_module(f'dualteacher.methods.{name}')"


@pytest.fixture
def package(tmp_path):
    """Writes sources of a small `dualteacher` and gives the closure of its train stage."""

    def closure(files: dict[str, str]) -> list[str]:
        for name, text in files.items():
            path = tmp_path / "dualteacher" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "dualteacher" / "__init__.py").write_text("")
        return [path.removeprefix("dualteacher/") for path in sources.closure("train", tmp_path)]

    return closure


def test_imports_of_imports_and_in_functions_count(package):
    found = package(
        {
            "stages/train": "from dualteacher import losses",
            "losses": "def f():\n    from dualteacher.upsampling import up",
            "upsampling": "import numpy",
            "unused": "",
        }
    )
    assert found == ["losses.py", "stages/train.py", "upsampling.py"]


def test_relative_imports_count_and_plumbing_and_type_checking_do_not(package):
    found = package(
        {
            "stages/train": (
                "from typing import TYPE_CHECKING\nfrom .. import losses\nfrom ..system import paths\n"
                "from . import sibling\n"
                "if TYPE_CHECKING:\n    from dualteacher import heavy"
            ),
            "stages/sibling": "X = 1",
            "losses": "X = 1",
            "system/paths": "X = 1",
            "heavy": "X = 1",
        }
    )
    assert found == ["losses.py", "stages/sibling.py", "stages/train.py"]


def test_a_methods_own_file_is_left_to_the_rule_and_what_it_imports_is_not(package):
    found = package(
        {
            "stages/train": "from dualteacher import methods\nmethods.build('x')",
            "methods/__init__": BY_NAME,
            "methods/dual_teacher": "from dualteacher import mixing",
            "methods/supervised": "",
            "mixing": "X = 1",
        }
    )
    assert found == ["methods/__init__.py", "mixing.py", "stages/train.py"]


def test_passing_through_a_package_does_not_use_its_functions(package):
    found = package(
        {
            "stages/train": "from dualteacher.methods.base import Method",
            "methods/__init__": BY_NAME,
            "methods/base": "class Method: ...",
            "methods/dual_teacher": "from dualteacher import mixing",
            "mixing": "X = 1",
        }
    )
    assert "mixing.py" not in found and "methods/base.py" in found


def test_templates_and_tables_beside_a_module_count(package, tmp_path):
    folder = tmp_path / "dualteacher" / "stages" / "templates"
    folder.mkdir(parents=True)
    (folder / "page.j2").write_text("")
    (folder.parent / "published.yaml").write_text("")
    found = package({"stages/train": "PLACE = 'templates'\nTABLE = 'published.yaml'\nX = 'missing.yaml'"})
    assert found == ["stages/published.yaml", "stages/templates/page.j2", "stages/train.py"]
