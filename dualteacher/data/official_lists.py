"""The official partitions: which images other code bases label, by list.

`partition_lists.json` names each list's repository, commit, path, size and SHA-256; the lists themselves are
fetched by the download stage to data/NAME/raw/lists/. A "1/16" of one code base holds other images than that
of another, so a list is called after its origin, and its hash goes into every table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from dualteacher.system.errors import UserError

TABLE = "partition_lists.json"
SUFFIXES = ("_leftImg8bit",)  # of Cityscapes' image files, not of the image
SHOWN = 5  # ids named in a complaint


@dataclass(frozen=True)
class ListFile:
    """A text file at a fixed commit of a public repository: one image a line."""

    name: str  # where it is kept, below the lists' folder
    repository: str
    commit: str
    path: str  # in the repository
    sha256: str
    bytes: int
    lines: int  # distinct images


@dataclass(frozen=True)
class Official:
    """A published partition of a data set's training images."""

    name: str
    labelled: ListFile
    unlabelled: ListFile


@cache
def known() -> dict[str, Any]:
    """The table of lists, by the dataset's `source`."""
    text = Path(__file__).with_name(TABLE).read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def names(source: str) -> list[str]:
    """Names of the partitions published for a source."""
    return list(known().get(source, {}).get("partitions", {}))


def official(source: str, name: str) -> Official:
    """One of `names(source)`."""
    pair = known()[source]["partitions"][name]
    return Official(name, *(_file(source, f"{name}.{role}.txt", pair[role]) for role in ("labelled", "unlabelled")))


def images(source: str, split: str) -> ListFile:
    """The list of a whole split, where one is published."""
    return _file(source, f"{split}.txt", known()[source]["images"][split])


def _file(source: str, name: str, entry: dict[str, Any]) -> ListFile:
    of = known()[source]
    return ListFile(name=name, repository=of["repository"], commit=of["commit"], **entry)


def read(folder: Path, listed: ListFile) -> list[str]:
    """Image ids in a fetched list, each once, in its order; UserError if it is missing or not that list."""
    path = folder / listed.name
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; run the download stage (with `lists: true` under the dataset in params.yaml)"
        ) from None
    found = ids(data.decode("utf-8", errors="replace"))
    if hashlib.sha256(data).hexdigest() != listed.sha256 or len(data) != listed.bytes or len(found) != listed.lines:
        raise UserError(
            f"{path}: not {listed.path} of {listed.repository} at {listed.commit[:8]}; delete it and run the"
            " download stage again"
        )
    return found


def ids(text: str) -> list[str]:
    """The image of each line, each once: the stem of its first path names it.

    The published lists are not quite alike: some begin their paths with a slash, some hold a blank or doubled
    line, most name the mask beside the image.
    """
    found: dict[str, None] = {}
    for line in text.splitlines():
        words = line.split()
        if words:
            stem = PurePosixPath(words[0]).stem
            for suffix in SUFFIXES:
                stem = stem.removesuffix(suffix)
            found[stem] = None
    return list(found)


def check(name: str, labelled: Sequence[str], unlabelled: Sequence[str], present: Collection[str]) -> None:
    """UserError unless the two parts are disjoint and together are exactly the prepared training images."""
    everything = set(labelled) | set(unlabelled)
    for problem, wrong in (
        ("labelled and unlabelled at once", set(labelled) & set(unlabelled)),
        ("that the prepared data does not hold", everything - set(present)),
        ("of the prepared data left out", set(present) - everything),
    ):
        if wrong:
            raise UserError(
                f"list {name}: {len(wrong)} images {problem}: {some(wrong)}; it belongs to another data set or"
                " version: prepare the one it was made for, or choose another partition"
            )


def some(wrong: Collection[str]) -> str:
    """A few of many ids."""
    more = len(wrong) - SHOWN
    return ", ".join(sorted(wrong)[:SHOWN]) + (f" and {more} more" if more > 0 else "")
