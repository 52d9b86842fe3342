"""The sources behind a stage, read from the package's imports.

The syntax trees are read and nothing is imported. Imports inside functions count; imports under TYPE_CHECKING do not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "dualteacher"

# These start, place, report and log a job: they cannot change a number.
PLUMBING = {f"{PACKAGE}/{name}.py" for name in ("__init__", "__main__", "training/watch",
            *(f"machine/{name}" for name in ("launcher", "mps", "slots")),
            *(f"system/{name}" for name in ("console", "errors", "files", "heartbeat", "paths")))}  # fmt: skip
PLUMBING_FOLDERS = (f"{PACKAGE}/cli/", f"{PACKAGE}/settings/", f"{PACKAGE}/workflow/")

# Loaded by name, one file a method; the train stage's rule adds the one that it runs.
METHODS = f"{PACKAGE}.methods"


def closure(stage: str, root: Path = Path()) -> list[str]:
    """Sorted paths, relative to `root`, of the sources that `stage` uses, without the methods' own files."""
    return reach(f"{PACKAGE}.stages.{stage}", root)


def reach(start: str, root: Path = Path()) -> list[str]:
    """Sorted paths of the sources that the module `start` imports, directly or not, without plumbing and methods.

    Of a package that is only passed through (``import a.b.c`` passes ``a.b``), the imports at module level count and
    those inside functions do not. A package loaded by name (``import_module(f"a.b.{name}")``) counts with all its
    modules. Files beside a module that it names (templates, tables) count too.
    """
    seen: dict[str, int] = {}  # path: whether followed into its functions
    resources: set[str] = set()
    by_name: set[str] = set()
    waiting = [(start, True)]
    while waiting:
        module, used = waiting.pop()
        path = _file(module, root)
        if path is None or (is_plumbing(path) and module != start) or seen.get(path, -1) >= used:
            continue
        seen[path] = int(used)
        tree = ast.parse((root / path).read_text(encoding="utf-8"))
        resources.update(_resources(tree, path, root))
        for name, whole in _imports(tree, module, path, used, root):
            if name.endswith(".*"):
                members = _members(name[:-2], root)
                by_name.update(members if name[:-2] == METHODS else [])
                waiting += [(member, True) for member in members]
            else:
                waiting.append((name, whole))
    own = {_file(module, root) for module in by_name} & set(method_files())
    return sorted(resources | {path for path in seen if path not in own and not is_only_docstring(root / path)})


def is_plumbing(path: str) -> bool:
    """Whether a source cannot change a number: it starts, reports or logs a job, or reads params.yaml."""
    return path in PLUMBING or path.startswith(PLUMBING_FOLDERS)


def method_files() -> list[str]:
    """The sources of the methods, one for each kind."""
    from dualteacher.settings import KINDS

    return [f"{METHODS.replace('.', '/')}/{kind}.py" for kind in sorted(KINDS)]


def _file(module: str, root: Path) -> str | None:
    """The module's file relative to the project, or None where it is not one of ours."""
    if module != PACKAGE and not module.startswith(f"{PACKAGE}."):
        return None
    stem = module.replace(".", "/")
    return next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if (root / path).is_file()), None)


def _members(package: str, root: Path) -> list[str]:
    folder = root / package.replace(".", "/")
    return [f"{package}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


def _imports(tree: ast.Module, module: str, path: str, used: bool, root: Path) -> Iterator[tuple[str, bool]]:
    """(module, whether it is used rather than passed through); "package.*" where a name completes it."""
    package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
    for node in _walk(tree, into_functions=used):
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
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            yield from ((name, True) for name in _by_name(node.args[0]))


def _walk(node: ast.AST, into_functions: bool) -> Iterator[ast.AST]:
    """ast.walk without what stands under `if TYPE_CHECKING:` and, where asked, in functions."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not into_functions:
            continue
        yield from _walk(child, into_functions)


def _passed(module: str) -> Iterator[tuple[str, bool]]:
    """The packages on the way to `module`."""
    parts = module.split(".")
    yield from ((".".join(parts[:end]), False) for end in range(2, len(parts)))


def _resources(tree: ast.Module, path: str, root: Path) -> Iterator[str]:
    """Files beside the module, or in a folder beside it, that one of its strings names."""
    folder = Path(path).parent
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if not re.fullmatch(r"\w[\w.-]*", node.value) or node.value.endswith(".py"):
            continue
        place = root / folder / node.value
        if place.is_file():
            yield str(folder / node.value)
        elif place.is_dir() and not any(place.glob("*.py")):
            yield from (str(folder / node.value / f.name) for f in sorted(place.iterdir()) if f.is_file())


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
    """Such a file (a package's ``__init__``) cannot change a number."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)
