"""Official partitions: the lists of labelled images published with other code bases.

partition_lists.json has each list's repository, commit, path, size and SHA-256 (null if unknown: then only the size is
compared). An entry's own repository and commit override the source's. The download stage fetches the lists to
data/NAME/raw/lists/. The "1/16" lists of two code bases contain different images, so a list's name includes its origin,
and tables include its hash.
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
SUFFIXES = ("_leftImg8bit",)  # of file names, not part of the id (Cityscapes)
SHOWN = 5  # ids listed in an error message


@dataclass(frozen=True)
class ListFile:
    """A text file in a public repository at a fixed commit, one image per line."""

    name: str  # path below the lists' folder
    repository: str
    commit: str
    path: str  # in the repository
    sha256: str | None
    bytes: int
    lines: int  # distinct images


@dataclass(frozen=True)
class Official:
    """A published partition of a dataset's training images. unlabelled: None for all that are not labelled."""

    name: str
    labelled: ListFile
    unlabelled: ListFile | None


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
    rest = pair["unlabelled"]
    return Official(
        name,
        labelled=_file(source, f"{name}.labelled.txt", pair["labelled"]),
        unlabelled=None if rest is None else _file(source, f"{name}.unlabelled.txt", rest),
    )


def images(source: str, split: str) -> ListFile:
    """The published list of a whole split."""
    return _file(source, f"{split}.txt", known()[source]["images"][split])


def _file(source: str, name: str, entry: dict[str, Any]) -> ListFile:
    of = known()[source]
    return ListFile(**({"name": name, "repository": of["repository"], "commit": of["commit"]} | entry))


def read(folder: Path, listed: ListFile) -> list[str]:
    """Distinct image ids of a downloaded list, in order; UserError if the file is missing or differs."""
    path = folder / listed.name
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; run the download stage (with `lists: true` under the dataset in params.yaml)"
        ) from None
    found = ids(data.decode("utf-8", errors="replace"))
    digest = hashlib.sha256(data).hexdigest()
    if listed.sha256 not in (digest, None) or len(data) != listed.bytes or len(found) != listed.lines:
        raise UserError(
            f"{path}: not {listed.path} of {listed.repository} at {listed.commit[:8]}; delete it and run the"
            " download stage again"
        )
    return found


def ids(text: str) -> list[str]:
    """Distinct image ids, in order: the stem of the first path in each line.

    Formats vary: some paths start with a slash, some lists have blank or repeated lines, most lines also name the
    mask.
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
    """UserError unless the two lists are disjoint and together contain exactly the prepared training images."""
    everything = set(labelled) | set(unlabelled)
    for problem, wrong in (
        ("are both labelled and unlabelled", set(labelled) & set(unlabelled)),
        ("are not in the prepared data", everything - set(present)),
        ("of the prepared data are in neither list", set(present) - everything),
    ):
        if wrong:
            raise UserError(
                f"list {name}: {len(wrong)} images {problem}: {some(wrong)}; the list is for another dataset or"
                " version: prepare that one, or choose another partition"
            )


def some(wrong: Collection[str]) -> str:
    """The first few ids."""
    more = len(wrong) - SHOWN
    return ", ".join(sorted(wrong)[:SHOWN]) + (f" and {more} more" if more > 0 else "")
