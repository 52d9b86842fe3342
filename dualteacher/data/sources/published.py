"""What the published data sets share: archives or the user's copies, mask encodings, colours, completeness."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dualteacher.data import lists
from dualteacher.data.fetch import download
from dualteacher.data.fetch.http import Download
from dualteacher.data.formats import images
from dualteacher.data.pack import decode_mask
from dualteacher.system.errors import UserError

# Where a file of a public repository is served as it is, at any commit.
RAW_ADDRESSES = (
    "https://raw.githubusercontent.com/{repository}/{commit}/{path}",
    "https://github.com/{repository}/raw/{commit}/{path}",
)
DAMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Local:
    """An archive or folder that the user has already. Fits download.Archive.

    key: of params.yaml, for complaints. published: what an archive has to be, where that is known.
    """

    key: str
    path: str
    published: Download | None = None

    def fetch(self, folder: Path) -> Path:
        path = Path(self.path).expanduser()
        if path.is_file() and self.published is not None:
            download.verify(path, self.published.digest, self.published.algorithm)
        elif not path.exists():
            raise UserError(
                f"params.yaml: {self.key} = {self.path}: no such file or folder; correct it, or set it to null"
            )
        return path

    def describe(self) -> dict[str, str]:
        return {"path": self.path}


def given(key: str, path: str | None, published: Download) -> download.Archive:
    """The user's copy where params.yaml names one, else the published archive."""
    return published if path is None else Local(key, path, published)


def list_archives(source: str, partitions: bool, splits: Sequence[str] = ()) -> list[download.Archive]:
    """The lists of whole `splits`, then both lists of every official partition if they are wanted."""
    wanted = [lists.images(source, split) for split in splits]
    for name in lists.names(source) if partitions else []:
        official = lists.official(source, name)
        wanted += [official.labelled, official.unlabelled]
    return [list_archive(listed) for listed in wanted]


def list_archive(listed: lists.ListFile) -> Download:
    """Where a list is fetched from."""
    place = {"repository": listed.repository, "commit": listed.commit, "path": listed.path}
    addresses = tuple(address.format(**place) for address in RAW_ADDRESSES)
    return Download(f"lists/{listed.name}", addresses, listed.sha256, size=listed.bytes)


def image_size(data: bytes, what: str) -> tuple[int, int]:
    """(H, W) of an encoded image, from its header."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except DAMAGE as error:
        raise UserError(f"{what}: not an image ({str(error)[:120]}); get the data set again") from None


def relabel(data: bytes, table: np.ndarray, what: str) -> bytes:
    """A published mask as ours. table: uint8 (256,), our class index (255 = ignore) for each published value."""
    try:
        return images.png(table[decode_mask(data)])
    except DAMAGE as error:
        raise UserError(f"{what}: not a mask ({str(error)[:120]}); get the data set again") from None


def complete(what: str, found: Collection[str], expected: Collection[str], where: Path) -> None:
    """UserError that counts and names what is missing (or too many) of the expected ids."""
    missing, strange = set(expected) - set(found), set(found) - set(expected)
    if missing:
        raise UserError(
            f"{where}: {len(missing)} of {len(expected)} {what} missing: {lists.some(missing)}; get the data set again"
        )
    if strange:
        raise UserError(
            f"{where}: {len(strange)} {what} more than the {len(expected)} published: {lists.some(strange)};"
            " remove them"
        )


def counted(what: str, found: Collection[str], expected: int, where: Path) -> None:
    """UserError unless there are as many as were published."""
    if len(set(found)) != expected:
        raise UserError(f"{where}: {len(set(found))} {what}, expected {expected}; get the data set again")


def voc_color(index: int) -> tuple[int, int, int]:
    """PASCAL VOC's colour map: the bits of the index, from the highest of each channel down, in turns."""
    color = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            color[channel] |= (index >> (3 * place + channel) & 1) << (7 - place)
    return color[0], color[1], color[2]


def table(classes: Mapping[int, int]) -> np.ndarray:
    """uint8 (256,): our class for each published value; all others stay, so that checks see them."""
    values = np.arange(256, dtype=np.uint8)
    for published, ours in classes.items():
        values[published] = ours
    return values
