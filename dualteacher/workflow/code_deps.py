"""Which sources each stage really uses: what both engines watch, so that an edit reruns what it changes.

`make code-deps` (`python -m dualteacher.workflow.code_deps`) writes the lists into workflow/code.yaml (Snakemake)
and dvc.yaml (DVC), and the JSON schema of params.yaml; a test fails when they are no longer true. The
imports are read from the syntax trees: nothing is imported, functions' inner imports count, imports under
TYPE_CHECKING do not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from dualteacher.system import files

PACKAGE = "dualteacher"
STAGES = ("download", "weights", "prepare", "partition", "warmup", "train", "evaluate", "report")

# How a command is started, told and logged: these cannot change a number.
PLUMBING = {f"{PACKAGE}/{name}.py" for name in ("__init__", "__main__", "cli", "training/watch",
            *(f"system/{name}" for name in ("console", "errors", "files", "heartbeat", "paths")))}  # fmt: skip
PLUMBING_FOLDERS = (f"{PACKAGE}/settings/",)

# Loaded by name, one file a method; the train stage's rule adds the one it runs.
METHODS = f"{PACKAGE}.methods"

CODE = Path("workflow/code.yaml")
DVC = Path("dvc.yaml")
SCHEMA = Path("workflow/schemas/params.schema.yaml")


def closure(stage: str, root: Path = Path()) -> list[str]:
    """Sorted paths of the sources that `stage` uses, its method's own file left out."""
    return reach(f"{PACKAGE}.stages.{stage}", root)


def reach(start: str, root: Path = Path()) -> list[str]:
    """Sorted paths of the sources behind the module `start`; other plumbing and methods by name left out.

    A package that is only passed through (``import a.b.c`` passes ``a.b``) counts with what it imports at
    once, not with its functions' imports; one loaded by name (``import_module(f"a.b.{name}")``) with all
    its modules. Files that a module names and that lie beside it (templates, tables) count too.
    """
    seen: dict[str, int] = {}  # path: whether followed into its functions
    resources: set[str] = set()
    by_name: set[str] = set()
    waiting = [(start, True)]
    while waiting:
        module, used = waiting.pop()
        path = _file(module, root)
        if path is None or (_is_plumbing(path) and module != start) or seen.get(path, -1) >= used:
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
    own = {_file(module, root) for module in by_name & set(_method_modules())}
    return sorted(resources | {path for path in seen if path not in own and not is_only_docstring(root / path)})


def _is_plumbing(path: str) -> bool:
    return path in PLUMBING or path.startswith(PLUMBING_FOLDERS)


def _method_modules() -> list[str]:
    from dualteacher.settings import Methods

    return [f"{METHODS}.{name}" for name in Methods.model_fields]


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


def code_yaml(lists: dict[str, list[str]]) -> str:
    """The text of workflow/code.yaml."""
    head = (
        "# The sources that can change each stage's numbers; `make code-deps` writes this list and dvc.yaml's.\n"
        "# The file of a cell's method is added by the train stage's own rule.\n"
    )
    return head + yaml.safe_dump(lists, sort_keys=False, default_flow_style=False)


def dvc_yaml(text: str, lists: dict[str, list[str]]) -> str:
    """dvc.yaml with each stage's `- dualteacher/…` lines replaced."""
    stage = None
    lines: list[str] = []
    written: set[str] = set()
    for line in text.splitlines():
        if match := re.fullmatch(r"  (\w+):(?: *&\w+)?(?: *#.*)?", line):
            stage = match[1]
        if stage in lists and re.fullmatch(rf" +- {PACKAGE}/[\w/.-]+", line):
            if stage not in written:
                indent = line[: line.index("-")]
                lines += [f"{indent}- {path}" for path in lists[stage]]
                written.add(stage)
            continue
        lines.append(line)
    return "\n".join(lines) + "\n"


def schema_yaml() -> str:
    """The JSON schema of params.yaml, made from the typed settings."""
    from dualteacher.settings import Settings

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}
    head = "# Made from dualteacher/settings/ by `make code-deps`; for editors and for Snakemake's validate().\n"
    return head + yaml.safe_dump(_without_defaults(schema), sort_keys=False, allow_unicode=True, width=110)


def _without_defaults(node: object) -> object:
    """Snakemake's validate() would fill defaults in: what is not in params.yaml must not exist."""
    if isinstance(node, dict):
        return {key: _without_defaults(value) for key, value in node.items() if key != "default"}
    return [_without_defaults(value) for value in node] if isinstance(node, list) else node


def wanted(root: Path = Path()) -> dict[Path, str]:
    """What the three written files should hold."""
    lists = {stage: closure(stage, root) for stage in STAGES}
    return {
        CODE: code_yaml(lists),
        DVC: dvc_yaml((root / DVC).read_text(encoding="utf-8"), lists),
        SCHEMA: schema_yaml(),
    }


def main() -> None:
    for path, text in wanted().items():
        print(f"{path}: {'rewritten' if files.update_text(path, text) else 'up to date'}")


if __name__ == "__main__":
    main()
