"""Read YAML strictly: what parsers otherwise accept silently becomes a one-line error with file and line."""

from __future__ import annotations

import codecs
import math
from pathlib import Path
from typing import Any

import yaml

from dualteacher.system.errors import UserError

WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # UTF-32-LE starts like UTF-16-LE


class Refused(yaml.MarkedYAMLError):
    """Valid YAML that is not allowed in a settings file."""


class Loader(yaml.SafeLoader):
    """Rejects duplicate keys and non-finite numbers."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)  # type: ignore[no-untyped-call]
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                before = first.setdefault((key.tag, key.value), key)
                if before is not key:
                    words = (
                        f"key '{key.value}' is written twice (first on line {before.start_mark.line + 1}); remove one"
                    )
                    raise Refused(problem=words, problem_mark=key.start_mark)
        return node


def _finite(loader: Loader, node: yaml.ScalarNode) -> float:
    value = loader.construct_yaml_float(node)
    if not math.isfinite(value):
        raise Refused(problem=f"{node.value} is not a finite number", problem_mark=node.start_mark)
    return value


Loader.add_constructor("tag:yaml.org,2002:float", _finite)


def load(path: Path) -> Any:
    """Read a YAML file; UserError if it is invalid."""
    return parse(_decoded(path.read_bytes(), path), str(path))


def parse(text: str, origin: str) -> Any:
    """Parse YAML; UserError, starting with `origin`, if it is invalid."""
    try:
        return yaml.load(text, Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        words = getattr(error, "problem", None) or str(error)
        raise UserError(f"{origin}{place}: {'' if isinstance(error, Refused) else 'not valid YAML: '}{words}") from None
    except RecursionError:
        raise UserError(f"{origin}: not valid YAML: nested too deeply") from None
    except ValueError as error:  # a date such as 2024-13-45
        raise UserError(f"{origin}: not valid YAML: {error}") from None


def _decoded(data: bytes, path: Path) -> str:
    if data.startswith(WIDE) or b"\0" in data:
        raise UserError(f"{path}: saved as UTF-16 or UTF-32; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {line}: not UTF-8 (byte {data[error.start]:#04x}); save it as UTF-8") from None
