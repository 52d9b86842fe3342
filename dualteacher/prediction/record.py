"""The journal of an output folder (one line per finished image), areas.parquet and errors.csv."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dualteacher.system import files
from dualteacher.system.errors import UserError

IMAGES_AT_ONCE = 1000  # per row group of areas.parquet
AREAS = pa.schema(
    [
        ("image", pa.string()),
        ("class_index", pa.uint8()),
        ("class_name", pa.string()),
        ("pixels", pa.int64()),
        ("share", pa.float64()),
    ]
)


@dataclass(frozen=True)
class FinishedImage:
    """A finished image."""

    name: str
    file: str  # absolute
    stamp: list[int]  # the file's size and modification time when it was read
    key: str  # fingerprint of weights and options
    outputs: dict[str, int]  # paths below the output folder → bytes
    pixels: list[int]  # per class


class Record:
    """The finished images of an output folder; only one process at a time may hold it."""

    def __init__(self, folder: Path, key: str) -> None:
        """Read the journal; UserError if another process is writing to the folder."""
        self.folder, self.key = folder, key
        files.check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._held = files.hold(folder / ".lock")
        if self._held is None:
            raise UserError(f"{folder}: another `predict` is writing to it; wait for it, or use another --output")
        self.journal = folder / "done.jsonl"
        self.entries = self._read()
        self._file = open(self.journal, "a", encoding="utf-8")  # noqa: SIM115  # closed by close()

    def _read(self) -> dict[str, FinishedImage]:
        """The last entry per name; removes outdated and incomplete lines from the file."""
        if not self.journal.exists():
            return {}
        text = self.journal.read_text(encoding="utf-8", errors="replace")
        entries: dict[str, FinishedImage] = {}
        for line in text.splitlines():
            try:
                entry = FinishedImage(**json.loads(line))
            except (ValueError, TypeError):
                continue
            entries[entry.name] = entry
        whole = "".join(_line(entry) for entry in entries.values())
        if whole != text:
            files.write_text(self.journal, whole)
        return entries

    def close(self) -> None:
        """Release the folder for other processes."""
        self._file.close()
        if self._held is not None:
            os.close(self._held)

    def has(self, name: str, file: Path) -> bool:
        """Whether an image is finished: same file, weights and options, and all outputs exist with their sizes.

        UserError if these outputs belong to another file.
        """
        entry = self.entries.get(name)
        if entry is None:
            return False
        if entry.file != os.path.realpath(file):
            if any((self.folder / output).exists() for output in entry.outputs):
                raise UserError(
                    f"{self.folder}: {name} is the prediction of {entry.file}, not of {file};"
                    " use another --output, or remove the folder"
                )
            return False
        return (
            entry.key == self.key
            and entry.stamp == stamp(file)
            and all(_size(self.folder / output) == size for output, size in entry.outputs.items())
        )

    def add(self, name: str, file: Path, taken: list[int], outputs: Sequence[str], pixels: Iterable[int]) -> None:
        """Record a finished image, and remove outputs of an earlier prediction that were not written again."""
        sizes = {output: (self.folder / output).stat().st_size for output in outputs}
        before = self.entries.get(name)
        for old in before.outputs if before else ():
            if old not in sizes:
                (self.folder / old).unlink(missing_ok=True)
        entry = FinishedImage(name, os.path.realpath(file), taken, self.key, sizes, [int(number) for number in pixels])
        self.entries[name] = entry
        self._file.write(_line(entry))
        self._file.flush()

    def write_areas(self, classes: Sequence[Mapping[str, Any]]) -> int:
        """Write areas.parquet; return how many images it omits because of other weights or options."""
        current = [self.entries[name] for name in sorted(self.entries) if self.entries[name].key == self.key]
        names = [str(entry["name"]) for entry in classes]
        with files.atomic(self.folder / "areas.parquet") as temporary, pq.ParquetWriter(temporary, AREAS) as writer:
            for first in range(0, len(current), IMAGES_AT_ONCE):
                writer.write_table(_areas(current[first : first + IMAGES_AT_ONCE], names))
        return len(self.entries) - len(current)

    def write_errors(self, errors: Iterable[tuple[str, str]]) -> None:
        """Write errors.csv (file, reason), or remove it if there are no errors."""
        errors = sorted(errors)
        path = self.folder / "errors.csv"
        if not errors:
            path.unlink(missing_ok=True)
            return
        with files.atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("file", "reason"), *((printable(a), printable(b)) for a, b in errors)])


def _line(entry: FinishedImage) -> str:
    return json.dumps(asdict(entry)) + "\n"  # ASCII: names that are not valid Unicode survive as escapes


def _areas(entries: Sequence[FinishedImage], names: Sequence[str]) -> pa.Table:
    """One row per image and class, including classes with no pixels."""
    rows = [
        (printable(entry.name), index, names[index], pixels, pixels / max(sum(entry.pixels), 1))
        for entry in entries
        for index, pixels in enumerate(entry.pixels)
    ]
    return pa.table(dict(zip(AREAS.names, zip(*rows, strict=True), strict=True)), AREAS)


def stamp(file: Path) -> list[int]:
    """Size and modification time of a file; if both are equal, it counts as unchanged."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def printable(name: str) -> str:
    """A file's name as valid Unicode."""
    return name.encode("utf-8", "backslashreplace").decode()
