"""Add corrected masks to the user's own folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from dualteacher.core.labels import IGNORE
from dualteacher.data.formats import folder_layout, folder_patterns, images
from dualteacher.labelling.corrected import Reader
from dualteacher.labelling.suggestion import Suggestion, mask_hash
from dualteacher.settings import Folder, Settings
from dualteacher.system import files
from dualteacher.system.errors import UserError


@dataclass(frozen=True)
class Accepted:
    """What `accept` did."""

    added: int  # masks
    already_there: int
    unchanged: int  # skipped
    validation_before: set[str]  # image ids
    validation_after: set[str]


@dataclass(frozen=True)
class Move:
    """A mask to write, and the move of its image into the folder of labelled images (or to where it is)."""

    mask: Path
    data: bytes
    image: Path
    target: Path


def target_folder(settings: Settings, suggestion: Suggestion) -> Folder:
    """Return the dataset to add masks to; UserError if it is not a folder, or has other classes."""
    name = suggestion.dataset
    wanted = settings.datasets.get(name)
    if not isinstance(wanted, Folder):
        raise UserError(f"{suggestion.folder}: params.yaml has no dataset {name} with `source: folder` to add masks to")
    if suggestion.classes != [entry.name for entry in wanted.classes]:
        raise UserError(f"{suggestion.folder}: its classes differ from those of datasets.{name}; run `suggest` again")
    return wanted


def accept(wanted: Folder, suggestion: Suggestion, read: Reader, unchanged: bool) -> Accepted:
    """Write the masks in the folder's own values and move their images to the labelled ones.

    Everything is checked before anything is written, and no mask is replaced. Masks identical to the pseudo-mask are
    skipped, unless `unchanged`: probably nobody has looked at them.
    """
    layout = folder_layout.arrange(folder_layout.scan(wanted), wanted)
    items = {item.image_id: item for item in (*layout.train, *layout.val)}
    moves, skipped, already_there = [], 0, 0
    for row in suggestion.rows:
        mask = read(row)
        if mask is None:
            continue
        if mask_hash(mask) == row["mask_sha256"] and not unchanged:
            skipped += 1
            continue
        size = images.size((suggestion.folder / "images" / row["image"]).read_bytes())
        if mask.shape != size:
            raise UserError(
                f"{row['image_id']}: the mask is {mask.shape[0]}×{mask.shape[1]}, the image {size[0]}×{size[1]} pixels"
            )
        item = find(row["image_id"], items, wanted)
        data = images.png(to_file_values(mask, wanted, row["image_id"]))
        if item.mask is not None and (Path(wanted.folder) / item.mask).read_bytes() == data:
            already_there += 1
            continue
        moves.append(plan_move(item, data, wanted))
    for move in moves:
        carry_out(move)
    after = folder_layout.arrange(folder_layout.scan(wanted), wanted) if moves else layout
    return Accepted(len(moves), already_there, skipped, image_ids(layout.val), image_ids(after.val))


def to_file_values(mask: np.ndarray, wanted: Folder, name: str) -> np.ndarray:
    """Class indices (H, W) → the values of this folder's mask files: uint8, uint16, or (H, W, 3) colours."""
    values = [entry.value for entry in wanted.classes]
    unknown = [int(value) for value in np.unique(mask) if value >= len(values) and value != IGNORE]
    if unknown:
        raise UserError(f"{name}: the mask contains class {unknown[0]}, but there are only {len(values)} classes")
    if (mask == IGNORE).any() and not wanted.ignore:
        raise UserError(
            f"{name}: the mask has unknown pixels (255), but the dataset's `ignore` has no value for them;"
            " label them, or set `ignore`"
        )
    numbers = [*values, *(wanted.ignore[:1] or values[:1])]
    ignored = IGNORE if IGNORE in wanted.ignore else numbers[-1]
    table = np.array([*values, ignored])
    kind = np.uint8 if table.max() <= 255 else np.uint16
    return table.astype(kind)[np.where(mask == IGNORE, len(values), mask)]


def find(image_id: str, items: dict[str, folder_layout.Entry], wanted: Folder) -> folder_layout.Entry:
    """Find an image where it was suggested, or where an earlier `accept` moved it; UserError if it is gone."""
    item = items.get(image_id)
    if item is None:
        item = items.get(folder_patterns.filled(wanted.images, str(relative_name(image_id, wanted))))
    if item is None:
        raise UserError(f"{wanted.folder}: image {image_id} is gone")
    return item


def relative_name(name: str, wanted: Folder) -> PurePosixPath:
    """A path relative to the image folder that contains it, the innermost if they are nested."""
    places = [place for place in (wanted.images, wanted.unlabelled) if place and folder_patterns.relative(name, place)]
    innermost = max(places, key=lambda place: len(PurePosixPath(place).parts), default=".")
    return PurePosixPath(folder_patterns.relative(name, innermost) or name)


def plan_move(item: folder_layout.Entry, data: bytes, wanted: Folder) -> Move:
    """Return the targets of an image and its mask; UserError if one exists already."""
    root, name = Path(wanted.folder), relative_name(item.image, wanted)
    affixes, key = folder_layout.affixes_of(wanted), str(name.with_suffix(""))
    mask = root / f"{folder_patterns.filled(wanted.masks, affixes.mask(affixes.core(key) or key))}.png"
    image, target = root / item.image, root / folder_patterns.filled(wanted.images, str(name))
    taken = [path for path in (mask, target) if path.exists() and path != image]
    if item.mask is not None or taken:
        raise UserError(f"{item.image}: {item.mask or taken[0]} already exists; nothing was changed")
    return Move(mask, data, image, target)


def carry_out(move: Move) -> None:
    """Move the image, then write the mask: in this order, an interrupted `accept` can be run again."""
    if move.target != move.image:
        move.target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(move.image, move.target)
    files.write_bytes(move.mask, move.data)


def image_ids(items: Sequence[folder_layout.Entry]) -> set[str]:
    """The ids of images."""
    return {item.image_id for item in items}
