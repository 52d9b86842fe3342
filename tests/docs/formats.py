"""Holds dualteacher.workflow.reference.formats against the files of a run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open

from dualteacher.workflow.reference.formats import FORMATS, Columns, Format

TEXT = {"string", "large_string"}
JSON = {
    "text": str, "int": int, "number": (int, float), "list": list, "mapping": dict,
    "int or null": (int, type(None)), "number or null": (int, float, type(None)),
}  # fmt: skip
MORE = {"provenance": {"fraction", "count", "cut_block"}}  # said in words: they depend on how it was drawn


def check(root: Path) -> None:
    """Every file of data/ and results/ has an entry, and the columns or keys that it names."""
    found = [path for folder in ("data", "results") for path in (root / folder).rglob("*") if path.is_file()]
    left = {
        str(path.relative_to(root)): path for path in found if path.name != "README.md" and "/raw/" not in str(path)
    }
    for entry in FORMATS:
        pattern = pattern_of(entry.path)
        matching = {name: path for name, path in left.items() if pattern.fullmatch(name)}
        assert matching or "/raw/" in entry.path, entry.path
        for name, path in matching.items():
            compare(entry, path)
            del left[name]
    assert list(left) == [], "files that docs/reference/files.md does not know"


def pattern_of(path: str) -> re.Pattern[str]:
    """A path of the reference: capitals stand for a name, {a,b} for one of these, * for anything."""
    text = re.escape(path)
    text = re.sub(r"seedN", r"seed\\d+", text)
    text = re.sub(r"[A-Z]{4,}", r"\\w+", text)
    text = re.sub(r"\\{(.*?)\\}", lambda match: f"({match[1].replace(',', '|')})", text)
    return re.compile(text.replace(r"\*", r"[\w-]+"))


def compare(entry: Format, path: Path) -> None:
    columns = entry.columns
    if not columns:
        return
    match path.suffix:
        case ".parquet":
            fields(columns, pq.read_schema(path), path)
        case ".arrow":
            with pa.memory_map(str(path)) as file:
                fields(columns, pa.ipc.open_file(file).schema, path)
        case ".csv":
            assert list(pd.read_csv(path).columns) == list(columns), path
        case ".json":
            keys(columns, json.loads(path.read_text()), path)
        case ".safetensors":
            with safe_open(path, "pt") as file:
                description = json.loads(file.metadata()["dualteacher"])
            optional = {name for name, (_, text) in columns.items() if text.startswith("only if")}
            assert list(description) == sorted({*columns} - (optional - {*description})), path
            named = {name: kind for name, (kind, _) in columns.items() if name in description}
            typed = {name: (kind, "") for name, kind in named.items() if name not in ("format", "num_classes")}
            keys(typed, {name: value for name, value in description.items() if name in typed}, path)


def fields(columns: Columns, schema: pa.Schema, path: Path) -> None:
    assert schema.names == list(columns), path
    for column in schema:
        kind = columns[column.name][0]
        if kind:
            assert str(column.type) == kind or (kind == "text" and str(column.type) in TEXT), f"{path}: {column}"


def keys(columns: Columns, value: dict[str, Any], path: Path) -> None:
    extra = MORE.get("provenance", set()) if "provenance" in path.name else set()
    assert set(value) - {"sha256"} - extra == set(columns) - {"sha256"}, path
    for name, (kind, _) in columns.items():
        if kind in JSON:
            assert isinstance(value[name], JSON[kind]), f"{path}: {name} is {value[name]!r}, not {kind}"
