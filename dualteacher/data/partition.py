"""Choose which training images keep their masks.

A seed determines an order of the images; every fraction or count takes a prefix of it. So the labelled sets of a seed
are nested, and results for different sizes are comparable. Neighbouring images (a block) are kept together, because
overlapping or adjacent images would leak labels.
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
SHARE = 0.01  # minimum share of an item's pixels for a class to count as present
CANDIDATES = 8  # random candidates per class: orders differ by seed, but few images cover all classes


@dataclass(frozen=True)
class ImagePool:
    """The training images: n ids, n block names (or None), pixels per class int64 (n, classes), has_mask bool (n,).

    Pixels of images without a mask are not used.
    """

    ids: Sequence[str]
    blocks: Sequence[str | None]
    pixels: np.ndarray
    has_mask: np.ndarray

    @property
    def unit(self) -> str:
        """What is chosen as a whole: blocks or images."""
        return "block" if any(block is not None for block in self.blocks) else "image"


@dataclass(frozen=True)
class Draw:
    """Labelled ids (sorted), and the block that `count` split, if any."""

    labelled: list[str]
    cut_block: str | None


def draw(images: ImagePool, seed: int, fraction: float | None = None, count: int | None = None) -> Draw:
    """Choose the labelled images: either a `fraction` of all training images or exactly `count`.

    A fraction is rounded to whole blocks, at least one. UserError if there are fewer masks than requested.
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


def order(images: ImagePool, seed: int) -> list[list[int]]:
    """Order all images with masks, grouped by unit (a block or a single image), for labelling.

    The first units together contain every class; the rest follow in random order. The result does not depend on the
    order of the input.
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
        # Order images inside a unit too, because a count may split it.
        inner = seeds.generator(seed, "partition", "images", images.ids[units[u][0]])
        inside = _covering(_shows(images.pixels[units[u]]), missing & shows[u], inner)
        ordered.append([units[u][i] for i in inside])
        missing = missing & ~shows[u]
    return ordered


def hold_out(images: ImagePool, labelled: Sequence[str], seed: int, share: float) -> list[str]:
    """Choose the labelled ids to hold out for model selection: a `share` of them, in whole units, sorted.

    Units come from the end of `order`, so that the remaining ones still contain every class where possible. UserError
    if there is only one unit.
    """
    chosen = set(labelled)
    has_mask = np.array([image_id in chosen for image_id in images.ids], bool)
    units = order(ImagePool(images.ids, images.blocks, images.pixels, has_mask & images.has_mask), seed)
    ends = np.cumsum([len(unit) for unit in reversed(units)])[:-1]  # one unit stays
    if not len(ends):
        raise UserError(f"held_out {share}: the {len(labelled)} labelled images are a single {images.unit}; label more")
    number = int(np.abs(ends - share * len(labelled)).argmin()) + 1
    return sorted(images.ids[i] for unit in units[-number:] for i in unit)


def _shows(pixels: np.ndarray) -> np.ndarray:
    """Which classes each item contains, bool (items, classes); stray pixels do not count.

    A class must fill SHARE of the item, or half of its largest area in any item if that is less. So every class is
    contained in at least one item.
    """
    enough = np.minimum(SHARE * pixels.sum(1, keepdims=True), pixels.max(0) / 2)
    return (pixels > 0) & (pixels >= enough)


def _covering(shows: np.ndarray, missing: np.ndarray, generator: np.random.Generator) -> list[int]:
    """A random order whose first items together contain all `missing` classes, rarest first.

    shows: bool (items, classes), from `_shows`. missing: bool (classes,).
    """
    rest = generator.permutation(len(shows)).tolist()
    number = shows.sum(0)  # items per class
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
    """Identify a labelled set: sha256 of its sorted ids, one per line."""
    return hashlib.sha256("\n".join(sorted(labelled)).encode()).hexdigest()


def write(path: Path, ids: Sequence[str], labelled: Sequence[str], held_out: Sequence[str] = ()) -> None:
    """Write a Parquet file of image_id and role, sorted by image_id. held_out: a subset of labelled."""
    role = dict.fromkeys(labelled, LABELLED) | dict.fromkeys(held_out, HELD_OUT)
    rows = sorted(ids)
    roles = [role.get(image_id, UNLABELLED) for image_id in rows]
    sealed.write_table(path, pa.table({"image_id": rows, "role": roles}))


class Roles(NamedTuple):
    """Ids of the training images by role, each sorted."""

    labelled: list[str]
    held_out: list[str]  # labelled, but only used for model selection
    unlabelled: list[str]


def read(path: Path) -> Roles:
    """Read a partition file; UserError if it is missing or invalid."""
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
