"""Tables and JSON files that carry a hash of what they hold: whoever reads one notices a flipped bit.

The hash lies in the file itself, so it goes wherever either engine, or a person, copies the file. A file without
one (made by hand, or by an older version) is read as it is.
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
    """The content is not the one that was written."""

    def __init__(self) -> None:
        super().__init__("damaged: its content no longer has the hash that it was written with")


def write_table(path: Path, table: pa.Table) -> None:
    """Parquet, atomically; the same table gives the same bytes."""
    metadata = {**(table.schema.metadata or {}), ENTRY: table_hash(table)}
    with files.atomic(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)


def read_table(path: Path) -> pa.Table:
    """What `write_table` wrote; Damaged, or pyarrow's errors where it is no Parquet file."""
    with open(path, "rb") as file:  # not the path: pyarrow would take a folder for a data set
        table = pq.read_table(file)
    metadata = table.schema.metadata or {}
    if ENTRY in metadata and metadata[ENTRY] != table_hash(table):
        raise Damaged
    return table


def table_hash(table: pa.Table) -> bytes:
    """Hex digest of the columns' names, types and values."""
    plain = table.replace_schema_metadata(None).combine_chunks()
    digest = hashlib.sha256(repr([(field.name, str(field.type)) for field in plain.schema]).encode())
    for name in plain.column_names:
        digest.update(repr(plain.column(name).to_pylist()).encode())
    return digest.hexdigest().encode()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A mapping with its hash as the last key."""
    files.write_json(path, {**value, KEY: json_hash(value)})


def read_json(path: Path) -> Any:
    """What `write_json` wrote, its hash included; Damaged, or ValueError where it is no JSON."""
    value = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(value, dict) and KEY in value:
        rest = {key: item for key, item in value.items() if key != KEY}
        if value[KEY] != json_hash(rest):
            raise Damaged
    return value


def json_hash(value: Mapping[str, Any]) -> str:
    """Hex digest over names and values, whatever the file's spacing."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
