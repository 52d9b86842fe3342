"""Find the source files that a stage depends on, by following the package's imports.

Parses the files without importing them. Includes imports inside functions, but not those under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "dualteacher"

# Start, place, report or log jobs: cannot affect results.
PLUMBING = {f"{PACKAGE}/{name}.py" for name in ("__init__", "__main__", "training/loggers", "training/watch",
            *(f"machine/{name}" for name in ("gpu_slots", "launcher", "mps")), *(f"system/{name}" for name in (
            "console", "errors", "files", "heartbeat", "os_errors", "paths")))}  # fmt: skip
PLUMBING_FOLDERS = (f"{PACKAGE}/cli/", f"{PACKAGE}/settings/", f"{PACKAGE}/workflow/")

# Loaded by name, one file per kind of method; the train rule adds the one it needs.
METHODS = f"{PACKAGE}.methods"


def closure(stage: str, root: Path = Path()) -> list[str]:
    """Sorted source files of `stage`, relative to `root`, without the methods' own files."""
    return reach(f"{PACKAGE}.stages.{stage}", root)


def reach(start: str, root: Path = Path()) -> list[str]:
    """Sorted source files that the module `start` imports, directly or indirectly, without plumbing and methods.

    For parent packages (``a.b`` in ``import a.b.c``), only imports at module level count, not those inside functions.
    A package loaded by name (``import_module(f"a.b.{name}")``) counts with all its modules. So do files next to a
    module whose names occur in it (templates, tables).
    """
    seen: dict[str, int] = {}  # path: 1 if imports inside functions were followed, else 0
    resources: set[str] = set()
    by_name: set[str] = set()
    waiting = [(start, True)]
    while waiting:
        module, used = waiting.pop()
        path = _file(module, root)
        if path is None or (is_plumbing(path) and module != start) or seen.get(path, -1) >= used:
            continue
        seen[path] = int(used)
        facts = _facts((root / path).read_text(encoding="utf-8"))
        resources.update(_resources(facts.words, path, root))
        for name, whole in _imports(facts.imports if used else facts.imports_at_once, module, path, root):
            if name.endswith(".*"):
                members = _members(name[:-2], root)
                by_name.update(members if name[:-2] == METHODS else [])
                waiting += [(member, True) for member in members]
            else:
                waiting.append((name, whole))
    own = {_file(module, root) for module in by_name} & set(method_files())
    return sorted(resources | {path for path in seen if path not in own and not is_only_docstring(root / path)})


def is_plumbing(path: str) -> bool:
    """Whether a source file cannot affect results: it starts, reports or logs jobs, or reads params.yaml."""
    return path in PLUMBING or path.startswith(PLUMBING_FOLDERS)


def method_files() -> list[str]:
    """Source files of the methods, one per kind."""
    from dualteacher.settings import KINDS

    return [f"{METHODS.replace('.', '/')}/{kind}.py" for kind in sorted(KINDS)]


def _file(module: str, root: Path) -> str | None:
    """The module's file relative to `root`, or None if it is not in this package."""
    if module != PACKAGE and not module.startswith(f"{PACKAGE}."):
        return None
    stem = module.replace(".", "/")
    return next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if (root / path).is_file()), None)


def _members(package: str, root: Path) -> list[str]:
    folder = root / package.replace(".", "/")
    return [f"{package}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


class Facts(NamedTuple):
    """What matters here of a source file's text."""

    imports: list[ast.AST]  # import statements and calls
    imports_at_once: list[ast.AST]  # those outside functions
    words: list[str]  # strings that may name a file or folder
    only_docstring: bool


@functools.cache  # a process may train many runs
def _facts(text: str) -> Facts:
    tree = ast.parse(text)
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    words = dict.fromkeys(word for word in strings if re.fullmatch(r"\w[\w.-]*", word) and not word.endswith(".py"))
    only = all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body)
    inside, outside = (list(filter(_is_import, _walk(tree, into))) for into in (True, False))
    return Facts(inside, outside, list(words), only)


def _is_import(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return bool(node.args) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module"
    return isinstance(node, ast.Import | ast.ImportFrom)


def _imports(nodes: list[ast.AST], module: str, path: str, root: Path) -> Iterator[tuple[str, bool]]:
    """Yield (module, whether it is imported itself, not just as a parent); "package.*" for loading by name."""
    package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _passed(alias.name)
                yield alias.name, True
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            members = [f"{base}.{alias.name}" for alias in node.names]
            yield from _passed(base)
            yield base, not all(_file(member, root) for member in members)
            yield from ((member, True) for member in members)
        elif isinstance(node, ast.Call):
            yield from ((name, True) for name in _by_name(node.args[0]))


def _walk(node: ast.AST, into_functions: bool) -> Iterator[ast.AST]:
    """ast.walk without `if TYPE_CHECKING:` blocks and, unless `into_functions`, without function bodies."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not into_functions:
            continue
        yield from _walk(child, into_functions)


def _passed(module: str) -> Iterator[tuple[str, bool]]:
    """The parent packages of `module`."""
    parts = module.split(".")
    yield from ((".".join(parts[:end]), False) for end in range(2, len(parts)))


def _resources(words: list[str], path: str, root: Path) -> Iterator[str]:
    """Files next to the module, or in folders next to it, named by one of its strings."""
    folder = Path(path).parent
    for word in words:
        place = root / folder / word
        if place.is_file():
            yield str(folder / word)
        elif place.is_dir() and not any(place.glob("*.py")):
            yield from (str(folder / word / f.name) for f in sorted(place.iterdir()) if f.is_file())


def _base(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def _by_name(argument: ast.expr) -> Iterator[str]:
    if isinstance(argument, ast.Constant):
        yield str(argument.value)
    elif isinstance(argument, ast.JoinedStr) and isinstance(argument.values[0], ast.Constant):
        yield str(argument.values[0].value).rstrip(".") + ".*"


def is_only_docstring(path: Path) -> bool:
    """Whether a file holds nothing but a docstring (a package's ``__init__``), so cannot affect results."""
    return _facts(path.read_text(encoding="utf-8")).only_docstring
