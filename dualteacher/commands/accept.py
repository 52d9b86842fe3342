"""Take corrected masks back into your own folder (`accept`): the other half of `suggest`."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dualteacher import settings as typed
from dualteacher.commands.suggest import RECORD, TABLE, mask_hash
from dualteacher.core.labels import IGNORE
from dualteacher.data.formats import images
from dualteacher.data.sources import folder as source
from dualteacher.labelling import coco
from dualteacher.settings import Settings
from dualteacher.system import files
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError

Reader = Callable[[dict[str, str]], np.ndarray | None]  # a row of the table → its mask, or None without one


@dataclass(frozen=True)
class Move:
    """A mask to write, and where its image goes if it has to leave the folder of unlabelled ones."""

    mask: Path
    data: bytes
    image: Path
    place: Path


def run(settings: Settings, suggested: Path, from_coco: Path | None, unchanged: bool) -> None:
    """Write masks in the folder's own values, and move their images to the labelled ones.

    All is checked before anything is written; no mask is replaced. A mask that is still the pseudo-mask is left
    out unless `unchanged`: nobody seems to have looked at it.
    """
    record, rows = read_suggestion(suggested)
    name = record["cell"]["dataset"]
    wanted = settings.datasets.get(name)
    if not isinstance(wanted, typed.Folder):
        raise UserError(
            f"{suggested}: datasets.{name} is no folder of your own (source: folder), which alone takes masks"
        )
    classes = [entry["name"] for entry in _json(suggested / "classes.json")]
    if classes != [entry.name for entry in wanted.classes]:
        raise UserError(f"{suggested}: made for other classes than datasets.{name} has; suggest again")
    read = (
        coco_reader(from_coco, classes, [row["image"] for row in rows])
        if from_coco
        else png_reader(suggested / "masks", wanted)
    )
    layout = source.arrange(source.scan(wanted), wanted)
    items = {item.image_id: item for item in (*layout.train, *layout.val)}
    moves, left, before, judged = [], 0, 0, ids(layout.val)
    for row in rows:
        mask = read(row)
        if mask is None:
            continue
        if mask_hash(mask) == row["mask_sha256"] and not unchanged:
            left += 1
            continue
        size = images.size((suggested / "images" / row["image"]).read_bytes())
        if mask.shape != size:
            raise UserError(
                f"{row['image_id']}: its mask is {mask.shape[0]}×{mask.shape[1]}, the image {size[0]}×{size[1]}"
            )
        item = find(row["image_id"], items, wanted)
        data = images.png(spelled(mask, wanted, row["image_id"]))
        if item.mask is not None and (Path(wanted.folder) / item.mask).read_bytes() == data:
            before += 1
            continue
        moves.append(move(item, data, wanted))
    _carry_out(moves)
    logger.info("%s: %d masks taken, %d taken before", wanted.folder, len(moves), before)
    if moves:
        say_validation(judged, ids(source.arrange(source.scan(wanted), wanted).val))
    if left:
        logger.warning("%d masks are the pseudo-masks still and were left out; --unchanged takes them too", left)


def read_suggestion(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """(suggest.json, the rows of suggested.csv)."""
    record = _json(folder / RECORD)
    with open(folder / TABLE, encoding="utf-8", newline="") as file:
        return record, list(csv.DictReader(file))


def _json(path: Path, what: str = "a folder that `suggest` wrote") -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give {what}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None


def png_reader(folder: Path, wanted: typed.Folder) -> Reader:
    """Masks as files: class indices, or the classes' colours; black, where it is no class, is 255."""
    colors = {images.pack_color([0, 0, 0]): IGNORE, images.pack_color([255, 255, 255]): IGNORE}
    colors |= {images.pack_color(entry.color): index for index, entry in enumerate(wanted.classes)}

    def read(row: dict[str, str]) -> np.ndarray | None:
        path = folder / f"{row['image_id']}.png"
        if not path.exists():
            return None
        data = path.read_bytes()
        try:
            try:
                return images.read_values(data, color=False).values
            except images.Colored:
                values = images.read_values(data, color=True).values
        except images.Unreadable as error:
            raise UserError(f"{path}: cannot be used: {error}") from None
        known, places = np.unique(values, return_inverse=True)
        if strange := [value for value in known.tolist() if value not in colors]:
            shown = [strange[0] >> 16, strange[0] >> 8 & 255, strange[0] & 255]
            raise UserError(f"{path}: {len(strange)} colours are no class's, the first {shown}")
        return np.array([colors[value] for value in known.tolist()])[places].reshape(values.shape)

    return read


def coco_reader(path: Path, classes: list[str], names: Sequence[str]) -> Reader:
    """Masks out of an annotation tool's COCO file; images it does not list, or without a shape, have none.

    names: the suggested images. Rectangles alone (`bbox`, no `segmentation`) are no shapes.
    """
    content = _json(path, "the COCO file that the annotation tool exported")
    try:
        index_of = {entry["id"]: classes.index(entry["name"]) for entry in content["categories"]}
        drawn: dict[int, list[dict[str, Any]]] = {entry["id"]: [] for entry in content["images"]}
        for annotation in content["annotations"]:
            if annotation.get("segmentation"):
                drawn[annotation["image_id"]].append(annotation)
        named = {str(entry["file_name"]): entry for entry in content["images"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not COCO annotations of these classes ({error})") from None
    found = match(names, list(named))
    known = set(found.values())
    lost = [name for name in named if name not in known and drawn[named[name]["id"]]]
    if lost:
        text = "%s: %d images with shapes are none of the suggested ones, the first is %s"
        logger.warning(text, path, len(lost), lost[0])

    def read(row: dict[str, str]) -> np.ndarray | None:
        entry = named[found[row["image"]]] if row["image"] in found else None
        if entry is None or not drawn[entry["id"]]:
            return None
        try:
            return coco.rasterise(drawn[entry["id"]], (entry["height"], entry["width"]), index_of)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: {entry['file_name']}: cannot be used: {error}") from None

    return read


def match(names: Sequence[str], listed: Sequence[str]) -> dict[str, str]:
    """Which file of an export is which suggested image: tools drop folders, put others before them, or a number.

    Taken is the way of comparing that tells most; an image that it leaves in doubt has none.
    """
    found: dict[str, str] = {}
    upload = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file
    ways: list[Callable[[str, str], bool]] = [
        lambda name, other: other == name,
        lambda name, other: other.endswith(f"/{name}"),
        lambda name, other: PurePosixPath(other).name == PurePosixPath(name).name,
        lambda name, other: upload.sub("", PurePosixPath(other).name) == PurePosixPath(name).name.replace(" ", "_"),
    ]
    for same in ways:
        taken = set(found.values())
        left = [other for other in listed if other not in taken]
        fits = {name: [other for other in left if same(name, other)] for name in names if name not in found}
        times = Counter(other for others in fits.values() for other in others)
        found |= {name: others[0] for name, others in fits.items() if len(others) == 1 and times[others[0]] == 1}
    return found


def spelled(mask: np.ndarray, wanted: typed.Folder, name: str) -> np.ndarray:
    """Class indices (H, W) → the values that this folder's masks spell them by: uint8, uint16, or (H, W, 3) colours."""
    values = [entry.value for entry in wanted.classes]
    unknown = [int(value) for value in np.unique(mask) if value >= len(values) and value != IGNORE]
    if unknown:
        raise UserError(f"{name}: its mask holds {unknown[0]}, but there are only {len(values)} classes")
    if (mask == IGNORE).any() and not wanted.ignore:
        raise UserError(f"{name}: its mask holds unknown pixels (255), for which `ignore` has no value; fill them in")
    numbers = [*values, *(wanted.ignore[:1] or values[:1])]
    ignored = IGNORE if IGNORE in wanted.ignore else numbers[-1]
    table = np.array([*values, ignored])
    kind = np.uint8 if table.max() <= 255 else np.uint16
    return table.astype(kind)[np.where(mask == IGNORE, len(values), mask)]


def find(image_id: str, items: dict[str, source.Entry], wanted: typed.Folder) -> source.Entry:
    """The image in the folder, perhaps among the labelled ones already; UserError if it is gone."""
    moved = PurePosixPath(wanted.images) / below(image_id, wanted)
    item = items.get(image_id) or items.get(str(moved))
    if item is None:
        raise UserError(f"{wanted.folder}: holds no image {image_id} any more")
    return item


def below(name: str, wanted: typed.Folder) -> PurePosixPath:
    """A path relative to the innermost of the folders of images that holds it."""
    path = PurePosixPath(name)
    places = [place for place in (wanted.images, wanted.unlabelled) if place and path.is_relative_to(place)]
    return path.relative_to(max(places, key=lambda place: len(PurePosixPath(place).parts), default="."))


def move(item: source.Entry, data: bytes, wanted: typed.Folder) -> Move:
    """Where an image and its mask belong; UserError if something is there already."""
    root, name = Path(wanted.folder), below(item.image, wanted)
    mask = root / wanted.masks / name.with_name(f"{name.stem}{wanted.mask_suffix}.png")
    image, place = root / item.image, root / wanted.images / name
    taken = [path for path in (mask, place) if path.exists() and path != image]
    if item.mask is not None or taken:
        raise UserError(f"{item.image}: {item.mask or taken[0]} is there already; nothing was changed")
    return Move(mask, data, image, place)


def ids(items: Sequence[source.Entry]) -> set[str]:
    """The images' ids."""
    return {item.image_id for item in items}


def say_validation(before: set[str], after: set[str]) -> None:
    """Where validation is a share of the images with masks, more masks change it."""
    if before == after:
        return
    changes = ((sorted(after - before), "came in"), (sorted(before - after), "went to training"))
    parts = [f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''} {what}" for names, what in changes if names]
    logger.warning(
        "validation is now %d images: %s; scores before and after do not compare (a folder of its own would stay)",
        len(after), "; ".join(parts),
    )  # fmt: skip


def _carry_out(moves: list[Move]) -> None:
    """The image first, so that the same command goes on where it was interrupted."""
    for one in moves:
        if one.place != one.image:
            one.place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(one.image, one.place)
        files.write_bytes(one.mask, one.data)
