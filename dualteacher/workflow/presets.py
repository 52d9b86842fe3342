"""Presets: presets/base.yaml holds every setting with its comment; the other presets only their changes.

The key `base` names the preset to build on (default: base). Mappings are merged key by key; other values replace those
of the base. `datasets` and `partition` are replaced as a whole, since their entries are data, not options. `make use`
writes the resolved, complete params.yaml, the only settings file that the engines and commands read.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.tokens import CommentToken

from dualteacher.settings import strict_yaml
from dualteacher.settings.reader import parse
from dualteacher.system import files
from dualteacher.system.errors import UserError

FOLDER = Path("presets")
BASE = "base"
FEW_LABELS = "few-labels"  # what `init` starts from
PACKAGED = [Path(__file__).with_name(f"{name}.yaml") for name in (BASE, FEW_LABELS)]  # links; in a wheel, the content
DEFAULT = "textures"
WHOLE = ("datasets", "partition", "links")  # sections that an overlay replaces
PARAMS = Path("params.yaml")


def _yaml() -> YAML:
    """A round-trip parser that keeps comments, quotes, number formats and long lines."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10**6
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    return yaml


def names(folder: Path = FOLDER) -> list[str]:
    """Names of all presets but the base."""
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem != BASE)


def load(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """A preset's resolved settings as plain values."""
    return plain(_resolved(name, folder))


def text(name: str, folder: Path = FOLDER) -> str:
    """Text of the complete params.yaml for a preset, with comments."""
    resolved = _resolved(name, folder)
    made = dump(resolved)
    parse(plain(resolved), str(folder / f"{name}.yaml"))
    return head(name, folder) + made


def head(name: str, folder: Path = FOLDER) -> str:
    """The comment that a preset's params.yaml begins with."""
    lines = _head(folder / f"{name}.yaml") if name != BASE else ()
    return "".join(f"# {line.lstrip('# ').rstrip()}\n" for line in lines)


def dump(settings: CommentedMap) -> str:
    """YAML text of settings loaded by this module."""
    _close_up(settings)
    stream = io.StringIO()
    _yaml().dump(settings, stream)
    return stream.getvalue()


def _close_up(node: Any) -> None:
    """Put comments one space behind their values; ruamel.yaml would keep the column they were read at."""
    if isinstance(node, CommentedMap | CommentedSeq):
        for tokens in [node.ca.comment or [], *node.ca.items.values()]:
            for token in tokens:
                if isinstance(token, CommentToken) and token.value.startswith("#"):
                    token.start_mark.column = 0
        for inner in node.values() if isinstance(node, CommentedMap) else node:
            _close_up(inner)


def few_labels(folder: Path = FOLDER) -> CommentedMap:
    """The resolved settings for few labels, with their comments."""
    return _resolved(FEW_LABELS, folder)


def commented(text: str) -> CommentedMap:
    """Parse a YAML mapping, keeping its comments."""
    found: CommentedMap = _yaml().load(text)
    return found


def overlay(settings: CommentedMap, changes: Mapping[str, Any], path: str = "") -> None:
    """Merge `changes` into `settings` in place; UserError for an unknown key, except for named entries."""
    for key, value in changes.items():
        place = f"{path}.{key}" if path else str(key)
        free = path.split(".")[0] in ("methods", *WHOLE)  # named entries, whose keys depend on their kind
        if not free and key not in settings:
            raise UserError(f"{place}: {FOLDER / BASE}.yaml has no such key")
        merged = isinstance(value, Mapping) and isinstance(settings.get(key), Mapping) and place not in WHOLE
        if merged:
            overlay(settings[key], value, place)
        else:
            settings[key] = _flow(value)
        if isinstance(changes, CommentedMap) and key in changes.ca.items and not merged:
            settings.ca.items[key] = changes.ca.items[key]


def _flow(value: Any) -> Any:
    """Make a plain list print on one line."""
    if type(value) is not list:
        return value
    made = CommentedSeq(value)
    made.fa.set_flow_style()
    return made


def use(name: str, folder: Path = FOLDER, params: Path = PARAMS) -> None:
    """Write a preset to params.yaml; back up the old one as params.yaml.bak."""
    made = text(name, folder)
    if params.exists() and params.read_bytes() != made.encode():
        shutil.copy2(params, params.with_name(f"{params.name}.bak"))
        print(f"{params}.bak: your previous settings")
    with files.atomic(params) as temporary:
        temporary.write_text(made, encoding="utf-8")


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, our value, their value) for each difference; `...` marks a missing key."""
    for key in dict.fromkeys([*theirs, *ours]):
        our, their = ours.get(key, ...), theirs.get(key, ...)
        place = f"{path}{key}"
        if isinstance(our, Mapping) and isinstance(their, Mapping):
            yield from differences(our, their, f"{place}.")
        elif our != their:
            yield place, our, their


def _resolved(name: str, folder: Path) -> CommentedMap:
    """The settings of a preset on top of those of its base."""
    path = folder / f"{name}.yaml"
    if not re.fullmatch(r"\w[\w-]*", name) or not path.is_file():
        raise UserError(f"no preset '{name}'; available: {', '.join(names(folder))}")
    if name == BASE:
        return _read(path)
    changes = _read(path)
    settings = _resolved(str(changes.pop("base", BASE)), folder)
    try:
        overlay(settings, changes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return settings


def _head(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return
        yield line


def _read(path: Path) -> CommentedMap:
    try:
        found = _yaml().load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        strict_yaml.load(path)  # says it in one line
        raise UserError(f"{path}: not valid YAML: {error}") from None
    return found if isinstance(found, CommentedMap) else CommentedMap()


def plain(value: Any) -> Any:
    """Convert ruamel.yaml's types to plain dicts, lists, strings and numbers."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def spell(value: Any) -> str:
    """A value on one line, in the style of params.yaml: 0.00006, not 6e-05."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {spell(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(spell, value)) + "]"
    if isinstance(value, float):
        digits = f"{value:.12f}".rstrip("0")
        return digits + "0" if digits.endswith(".") else digits
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z][\w./-]*", value) else f'"{value}"'
    return "null" if value is None else str(value).lower()
