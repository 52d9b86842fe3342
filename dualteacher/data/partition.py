"""Which training images keep their masks.

One seed gives one order of the images; every share or number of that seed is a prefix of it. So the labelled
sets of a seed are nested, and a curve over their size compares like with like. Neighbouring images (a block)
stay together: else the unlabelled part would be seen through the labelled one's borders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dualteacher.core import seeds
from dualteacher.system import sealed
from dualteacher.system.errors import UserError

LABELLED, HELD_OUT, UNLABELLED = "labelled", "held_out", "unlabelled"
SHARE = 0.01  # of an item's pixels that a class must fill to be shown by it
CANDIDATES = 8  # seeds differ, and yet few images cover all classes


@dataclass(frozen=True)
class Images:
    """What a draw needs to know of the training images.

    ids: n image ids. blocks: n block names or None. pixels: int64 (n, classes), pixels of each class;
    rows of images without a mask do not count. has_mask: bool (n,).
    """

    ids: Sequence[str]
    blocks: Sequence[str | None]
    pixels: np.ndarray
    has_mask: np.ndarray

    @property
    def unit(self) -> str:
        """What is drawn as a whole."""
        return "block" if any(block is not None for block in self.blocks) else "image"


@dataclass(frozen=True)
class Draw:
    """The outcome: labelled ids (sorted) and the block that `count` cut in two, if it did."""

    labelled: list[str]
    cut_block: str | None


def draw(images: Images, seed: int, fraction: float | None = None, count: int | None = None) -> Draw:
    """Choose the labelled images by `fraction` of all training images or by `count`, exactly one of them.

    A fraction takes whole blocks, as many as come nearest to it (at least one); a count is met exactly.
    UserError if more is asked for than there are masks.
    """
    if (fraction is None) == (count is None):
        raise ValueError("exactly one of fraction and count")
    units = order(images, seed)
    available = sum(map(len, units))
    wanted = count if count is not None else max(1, round(fraction * len(images.ids)))  # type: ignore[operator]
    if available < wanted:
        asked = f"count {count}" if count is not None else f"fraction {fraction} ({wanted} images)"
        raise UserError(
            f"{asked}: only {available} of {len(images.ids)} training images have masks;"
            " ask for fewer (partition in params.yaml)"
        )
    ends = np.cumsum([len(unit) for unit in units])
    cut = None
    if count is not None:
        taken = count
        if taken not in ends:
            cut = images.blocks[units[int(np.searchsorted(ends, taken))][0]]
    else:
        taken = int(ends[np.abs(ends - fraction * len(images.ids)).argmin()])  # type: ignore[operator]
    chosen = [i for unit in units for i in unit][:taken]
    return Draw(sorted(images.ids[i] for i in chosen), cut)


def order(images: Images, seed: int) -> list[list[int]]:
    """All images with masks, by unit (a block, or a single image), in the order in which they are labelled.

    Early units between them show every class that any image shows; the rest follow at random. The order
    does not depend on the order in which the images are given.
    """
    members: dict[str, list[int]] = {}
    for i in sorted(range(len(images.ids)), key=lambda i: images.ids[i]):
        if images.has_mask[i]:
            block = images.blocks[i]
            members.setdefault(f"image {images.ids[i]}" if block is None else f"block {block}", []).append(i)
    units = [members[name] for name in sorted(members)]
    if not units:
        raise UserError("partition: no training image has a mask")
    shows = _shows(np.array([images.pixels[unit].sum(0) for unit in units]))
    missing = np.asarray(shows.any(0))
    ordered = []
    for u in _covering(shows, missing, seeds.generator(seed, "partition", "units")):
        # Inside a unit as well: a count may cut it.
        inner = seeds.generator(seed, "partition", "images", images.ids[units[u][0]])
        inside = _covering(_shows(images.pixels[units[u]]), missing & shows[u], inner)
        ordered.append([units[u][i] for i in inside])
        missing = missing & ~shows[u]
    return ordered


def hold_out(images: Images, labelled: Sequence[str], seed: int, share: float) -> list[str]:
    """Which of the labelled ids leave training to pick the epoch on: `share` of them, in whole units, sorted.

    They are taken from the end of the order in which `order` would label them, so that what is left still
    shows every class that they all show, as far as a unit can be spared. UserError where none can.
    """
    chosen = set(labelled)
    has_mask = np.array([image_id in chosen for image_id in images.ids], bool)
    units = order(Images(images.ids, images.blocks, images.pixels, has_mask & images.has_mask), seed)
    ends = np.cumsum([len(unit) for unit in reversed(units)])[:-1]  # one unit stays
    if not len(ends):
        raise UserError(f"held_out {share}: the {len(labelled)} labelled images are one {images.unit}; label more")
    number = int(np.abs(ends - share * len(labelled)).argmin()) + 1
    return sorted(images.ids[i] for unit in units[-number:] for i in unit)


def _shows(pixels: np.ndarray) -> np.ndarray:
    """Which classes an item shows, bool (items, classes), from their pixels.

    A few stray pixels teach nothing: a class has to fill a share of the item, or, where it is small
    everywhere, half of what it fills at most. So a class that any item holds is shown by one at least.
    """
    enough = np.minimum(SHARE * pixels.sum(1, keepdims=True), pixels.max(0) / 2)
    return (pixels > 0) & (pixels >= enough)


def _covering(shows: np.ndarray, missing: np.ndarray, generator: np.random.Generator) -> list[int]:
    """A random order whose first items show all of `missing`, the rarest class first.

    shows: bool (items, classes). missing: bool (classes,).
    """
    rest = generator.permutation(len(shows)).tolist()
    number = shows.sum(0)  # items that show a class
    missing = missing.copy()
    first: list[int] = []
    while missing.any():
        rarest = min(np.flatnonzero(missing), key=lambda c: (number[c], c))
        candidates = [i for i in rest if shows[i, rarest]][:CANDIDATES]
        best = max(candidates, key=lambda i: (shows[i] & missing).sum())
        rest.remove(best)
        first.append(best)
        missing &= ~shows[best]
    return first + rest


def list_hash(labelled: Sequence[str]) -> str:
    """What names a labelled set: sha256 of its sorted ids, one a line."""
    return hashlib.sha256("\n".join(sorted(labelled)).encode()).hexdigest()


def write(path: Path, ids: Sequence[str], labelled: Sequence[str], held_out: Sequence[str] = ()) -> None:
    """Parquet of image_id and role, one row a training image, sorted by image_id; held_out: some of the labelled."""
    role = dict.fromkeys(labelled, LABELLED) | dict.fromkeys(held_out, HELD_OUT)
    rows = sorted(ids)
    roles = [role.get(image_id, UNLABELLED) for image_id in rows]
    sealed.write_table(path, pa.table({"image_id": rows, "role": roles}))


class Roles(NamedTuple):
    """Ids of the training images by what they are for, each sorted."""

    labelled: list[str]
    held_out: list[str]  # labelled too, but only scored, to pick the epoch
    unlabelled: list[str]


def read(path: Path) -> Roles:
    """UserError if the file is missing or not a partition."""
    try:
        table = sealed.read_table(path).select(["image_id", "role"]).to_pydict()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the partition stage") from None
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a partition ({error}); remove it and run the partition stage again") from None
    roles: dict[str, list[str]] = {LABELLED: [], HELD_OUT: [], UNLABELLED: []}
    for image_id, role in zip(table["image_id"], table["role"], strict=True):
        if role not in roles:
            raise UserError(f"{path}: {image_id} has role '{role}'; allowed: {', '.join(roles)}")
        roles[role].append(image_id)
    if len(set(table["image_id"])) < len(table["image_id"]):
        raise UserError(f"{path}: an image is listed twice; run the partition stage again")
    return Roles(*map(sorted, roles.values()))
