"""Shared by published datasets: the user's own copies, mask encodings, colours, completeness checks."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dualteacher.data import official_lists
from dualteacher.data.fetch import Archive
from dualteacher.data.fetch.http import Download
from dualteacher.data.fetch.manifest import verify
from dualteacher.data.formats import images
from dualteacher.data.pack import DECODE_ERRORS, decode_mask
from dualteacher.system.errors import UserError

AGAIN = "download the dataset again"
# Raw files of a public repository at any commit.
RAW_ADDRESSES = (
    "https://raw.githubusercontent.com/{repository}/{commit}/{path}",
    "https://github.com/{repository}/raw/{commit}/{path}",
)


@dataclass(frozen=True)
class Local:
    """An archive or folder that the user already has. Implements `fetch.Archive`.

    key: in params.yaml, for error messages. published: the archive it must equal, if known.
    """

    key: str
    path: str
    published: Download | None = None

    def fetch(self, folder: Path) -> Path:
        path = Path(self.path).expanduser()
        if path.is_file() and self.published is not None and self.published.digest is not None:
            verify(path, self.published.digest, self.published.algorithm)
        elif not path.exists():
            raise UserError(
                f"params.yaml, under datasets: {self.key} = {self.path}: no such file or folder;"
                " correct it, or set it to null"
            )
        return path

    def describe(self) -> dict[str, str]:
        return {"path": self.path}


def given(key: str, path: str | None, published: Download) -> Archive:
    """The user's copy if params.yaml names one, else the published archive."""
    return published if path is None else Local(key, path, published)


def list_archives(source: str, partitions: bool, splits: Sequence[str] = ()) -> list[Archive]:
    """The lists of whole `splits`, then, with `partitions`, those of every official partition."""
    wanted = [official_lists.images(source, split) for split in splits]
    for name in official_lists.names(source) if partitions else []:
        official = official_lists.official(source, name)
        wanted += [official.labelled] if official.unlabelled is None else [official.labelled, official.unlabelled]
    return [list_archive(listed) for listed in wanted]


def list_archive(listed: official_lists.ListFile) -> Download:
    """The download of a list."""
    place = {"repository": listed.repository, "commit": listed.commit, "path": listed.path}
    addresses = tuple(address.format(**place) for address in RAW_ADDRESSES)
    return Download(f"lists/{listed.name}", addresses, listed.sha256, size=listed.bytes)


def image_size(data: bytes, what: str) -> tuple[int, int]:
    """(H, W) of an encoded image, from its header."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except DECODE_ERRORS as error:
        raise UserError(f"{what}: not an image ({str(error)[:120]}); {AGAIN}") from None


def relabel(data: bytes, table: np.ndarray, what: str) -> bytes:
    """Re-encode a published mask. table: uint8 (256,), our class index (255 = ignore) for each published value."""
    try:
        return images.png(table[decode_mask(data)])
    except DECODE_ERRORS as error:
        raise UserError(f"{what}: not a mask ({str(error)[:120]}); {AGAIN}") from None


def complete(what: str, found: Collection[str], expected: Collection[str], where: Path) -> None:
    """UserError, with count and names, if expected ids are missing or unexpected ones are present."""
    some = official_lists.some
    missing, extra = set(expected) - set(found), set(found) - set(expected)
    if missing:
        raise UserError(f"{where}: {len(missing)} of {len(expected)} {what} missing: {some(missing)}; {AGAIN}")
    if extra:
        raise UserError(f"{where}: {len(extra)} extra {what} (published: {len(expected)}): {some(extra)}; remove them")


def counted(what: str, found: Collection[str], expected: int, where: Path) -> None:
    """UserError unless there are exactly `expected`."""
    if len(set(found)) != expected:
        raise UserError(f"{where}: {len(set(found))} {what}, expected {expected}; {AGAIN}")


def table(classes: Mapping[int, int]) -> np.ndarray:
    """uint8 (256,): our index for each published value; unlisted values stay as they are, for the checks to find."""
    values = np.arange(256, dtype=np.uint8)
    values[list(classes.keys())] = list(classes.values())
    return values
