"""Tables and JSON files with a hash of their content, so that reading one detects a flipped bit.

The hash is stored in the file itself and survives copying. A file without a hash (made by hand or by an older version)
is read unchecked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dualteacher.system import files

KEY = "sha256"  # in JSON
ENTRY = b"dualteacher.sha256"  # in a table's schema


class Damaged(ValueError):
    """The content does not match its hash."""

    def __init__(self) -> None:
        super().__init__("damaged: its content does not match its hash")


def write_table(path: Path, table: pa.Table) -> None:
    """Write Parquet, atomically; the same table gives the same bytes."""
    metadata = {**(table.schema.metadata or {}), ENTRY: table_hash(table)}
    with files.atomic(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)


def read_table(path: Path) -> pa.Table:
    """Read a table of `write_table`; Damaged, or pyarrow's errors if it is not a Parquet file."""
    with open(path, "rb") as file:  # not the path: pyarrow would read a folder as a data set
        table = pq.read_table(file)
    metadata = table.schema.metadata or {}
    if ENTRY in metadata and metadata[ENTRY] != table_hash(table):
        raise Damaged
    return table


def table_hash(table: pa.Table) -> bytes:
    """Hash of the columns' names, types and values, as hex."""
    plain = table.replace_schema_metadata(None).combine_chunks()
    digest = hashlib.sha256(repr([(field.name, str(field.type)) for field in plain.schema]).encode())
    for name in plain.column_names:
        digest.update(repr(plain.column(name).to_pylist()).encode())
    return digest.hexdigest().encode()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping, with its hash as the last key."""
    files.write_json(path, {**value, KEY: json_hash(value)})


def read_json(path: Path) -> Any:
    """Read a file of `write_json`, including the hash; Damaged, or ValueError if it is not JSON."""
    value = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(value, dict) and KEY in value:
        rest = {key: item for key, item in value.items() if key != KEY}
        if value[KEY] != json_hash(rest):
            raise Damaged
    return value


def json_hash(value: Mapping[str, Any]) -> str:
    """Hash of keys and values, independent of formatting, as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
