"""Your own images in a folder, with masks for some of them.

An image and its mask are matched by name: path below their folders, without the ending. What a name may be
called (`a.jpg` and `a.png` side by side) and what has no partner is settled before any file is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from dualteacher import settings
from dualteacher.core import seeds
from dualteacher.data import check
from dualteacher.data.check import Checked, Finding
from dualteacher.data.fetch.download import Archive
from dualteacher.data.formats import images
from dualteacher.data.formats.mask_table import MaskTable
from dualteacher.data.pack import ClassInfo, Sample
from dualteacher.data.sources import Split
from dualteacher.system import console, files, parallel
from dualteacher.system.errors import UserError

VALIDATION_SEED = 2024  # not the run's seed: every run is scored on the same images
CHANGED = "run the download stage again"


@dataclass(frozen=True)
class Item:
    """An image to be packed; paths are relative to the dataset's folder."""

    image_id: str
    image: str
    mask: str | None
    block: str | None


@dataclass(frozen=True)
class Layout:
    """Which file is what."""

    train: list[Item]
    val: list[Item]
    orphans: list[str]  # masks without an image

    def files(self) -> list[str]:
        items = [*self.train, *self.val]
        return sorted([item.image for item in items] + [item.mask for item in items if item.mask])


class Folder:
    """Fits sources.Source."""

    def __init__(self, wanted: settings.Folder) -> None:
        self.wanted = wanted

    def archives(self) -> list[Archive]:
        return [Listing(self.wanted)]

    def open(self, paths: Sequence[Path]) -> Photos:
        (listing,) = paths
        hashes: dict[str, str] = json.loads(listing.read_text(encoding="utf-8"))
        return Photos(self.wanted, arrange(list(hashes), self.wanted), hashes)

    def look(self) -> Photos:
        """The folder as it is now, for check-data."""
        return Photos(self.wanted, arrange(scan(self.wanted), self.wanted), None)


@dataclass(frozen=True)
class Listing:
    """Stands for the files of a folder, which stay where they are: a list of their hashes. Fits fetch.Archive."""

    wanted: settings.Folder

    def fetch(self, folder: Path) -> Path:
        """Hash the files that are used into files.json."""
        root = Path(self.wanted.folder)
        names = arrange(scan(self.wanted), self.wanted).files()
        jobs = (partial(files.sha256, root / name) for name in names)
        hashes = list(console.progress(parallel.ordered(jobs), "hash", len(names), "file"))
        files.write_json(folder / "files.json", dict(zip(names, hashes, strict=True)))
        return folder / "files.json"

    def describe(self) -> dict[str, str]:
        return {"folder": self.wanted.folder}


def scan(wanted: settings.Folder) -> list[str]:
    """Sorted relative paths of the image files below the folders that are used. Links to folders are not followed."""
    root = Path(wanted.folder)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name the one that holds your images (`folder` in params.yaml)")
    used = [wanted.images, wanted.masks, wanted.unlabelled, wanted.validation.images, wanted.validation.masks]
    found: set[str] = set()
    for part in dict.fromkeys(folder for folder in used if folder is not None):
        if not (root / part).is_dir():
            raise UserError(f"{root / part}: no such folder, but params.yaml names it")
        for place, inner, names in os.walk(root / part):
            inner[:] = [name for name in inner if not name.startswith(".")]
            below = Path(place).relative_to(root)
            found.update(str(PurePosixPath(below / name)) for name in names if images.is_image(name))
    for name in found:
        if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
            raise UserError(f"{root}: a file's name holds a line break or is not UTF-8: {name!a}; rename it")
    return sorted(found)


def arrange(names: Sequence[str], wanted: settings.Folder) -> Layout:
    """Match images and masks and divide them; UserError in one line where that is not clear."""
    own = wanted.validation
    places = [wanted.images, wanted.masks, wanted.unlabelled, own.images, own.masks]
    by_place: dict[str, dict[str, list[str]]] = {p: {} for p in places if p is not None}
    for name in names:
        place = _nearest(name, list(by_place))
        if place is not None:
            key = str(PurePosixPath(name).relative_to(place).with_suffix(""))
            by_place[place].setdefault(unicodedata.normalize("NFC", key), []).append(name)
    for grouped in by_place.values():
        _refuse_ambiguous(grouped)
    labelled, orphans = _pair(by_place, wanted.images, wanted.masks, wanted)
    if wanted.unlabelled is not None:
        labelled += [_item(key, names[0], None, wanted) for key, names in by_place[wanted.unlabelled].items()]
    if own.images is not None and own.masks is not None:
        val, lost = _pair(by_place, own.images, own.masks, wanted)
        train, orphans = labelled, orphans + lost
        _need_masks(val, own.images, own.masks, by_place, wanted)
    else:
        train, val = _divide(labelled, own.share or 0.0, wanted)
    _need_masks(train, wanted.images, wanted.masks, by_place, wanted)
    return Layout(sorted(train, key=_by_id), sorted(val, key=_by_id), sorted(orphans))


def _by_id(item: Item) -> str:
    return item.image_id


def _nearest(name: str, places: Sequence[str]) -> str | None:
    """The innermost of `places` that holds the file."""
    parents = {str(parent) for parent in PurePosixPath(name).parents}
    inside = [place for place in places if str(PurePosixPath(place)) in parents]
    return max(inside, key=lambda place: len(PurePosixPath(place).parts), default=None)


def _refuse_ambiguous(grouped: Mapping[str, list[str]]) -> None:
    several = [names for names in grouped.values() if len(names) > 1]
    if several:
        more = f" (and {len(several) - 1} more such names)" if len(several) > 1 else ""
        raise UserError(
            f"{' and '.join(several[0])}: one name but for the ending, so it is not clear which is meant;"
            f" rename or remove one{more}"
        )


def _pair(
    by_place: Mapping[str, Mapping[str, list[str]]], place: str, masks: str, wanted: settings.Folder
) -> tuple[list[Item], list[str]]:
    """(images with the masks that belong to them, masks that belong to none)."""
    suffix = unicodedata.normalize("NFC", wanted.mask_suffix)
    of_images, of_masks = dict(by_place[place]), dict(by_place[masks])
    if place == masks:
        of_masks = {key: names for key, names in of_masks.items() if key.endswith(suffix)}
        of_images = {key: names for key, names in of_images.items() if key not in of_masks}
    items = []
    for key, (name,) in of_images.items():
        mask = of_masks.pop(key + suffix, [None])[0]
        items.append(_item(key, name, mask, wanted))
    return items, [name for (name,) in of_masks.values()]


def _item(key: str, image: str, mask: str | None, wanted: settings.Folder) -> Item:
    image_id = unicodedata.normalize("NFC", str(PurePosixPath(image).with_suffix("")))
    block = str(PurePosixPath(image).parent) if wanted.block == "folder" else None
    return Item(image_id, image, mask, block)


def _divide(items: list[Item], share: float, wanted: settings.Folder) -> tuple[list[Item], list[Item]]:
    """Hold a share of the images with masks back, or of the sub-folders with masks where these stay whole.

    The order is by a hash of the name: another image more or less moves few of the others.
    """
    units = sorted({item.block or item.image_id for item in items if item.mask is not None})
    what = "sub-folders" if wanted.block == "folder" else "images"
    if len(units) < 2:
        raise UserError(
            f"{wanted.folder}: {len(units)} {what} with masks in {wanted.images}, but training and validation need"
            f" one each: a mask is looked for as {wanted.masks}/<name of the image>{wanted.mask_suffix}.png;"
            " or name folders for validation"
        )
    units.sort(key=lambda unit: (seeds.derive(VALIDATION_SEED, "folder", "validation", unit), unit))
    held_back = set(units[: min(max(1, round(share * len(units))), len(units) - 1)])
    val = [item for item in items if (item.block or item.image_id) in held_back]
    return [item for item in items if (item.block or item.image_id) not in held_back], val


def _need_masks(
    items: list[Item], place: str, masks: str, by_place: Mapping[str, Mapping[str, list[str]]], wanted: settings.Folder
) -> None:
    if any(item.mask is not None for item in items):
        return
    example = next((item.image for item in items), f"{place}/a.jpg")
    looked = f"{masks}/{PurePosixPath(example).relative_to(place).with_suffix('')}{wanted.mask_suffix}.png"
    there = next((names[0] for names in by_place[masks].values()), "no image file")
    raise UserError(
        f"{wanted.folder}: no image in {place} has a mask: that of {example} would be {looked}, and {masks} holds"
        f" {there}; see masks and mask_suffix"
    )


class Photos:
    """What the folder holds. Fits sources.Content; `jobs` reads, converts and checks in one go.

    hashes: sha256 by path as the download stage saw them, or None where that does not matter.
    """

    def __init__(self, wanted: settings.Folder, layout: Layout, hashes: Mapping[str, str] | None) -> None:
        self.wanted, self.layout, self.hashes = wanted, layout, hashes
        self.root = Path(wanted.folder)
        self.table = MaskTable(wanted)

    def classes(self) -> list[ClassInfo]:
        return [ClassInfo(entry.name, (*entry.color,)) for entry in self.wanted.classes]  # type: ignore[arg-type]

    def items(self, split: Split) -> list[Item]:
        return self.layout.train if split == "train" else self.layout.val

    def ids(self, split: Split) -> list[str]:
        return [item.image_id for item in self.items(split)]

    def samples(self, split: Split) -> Iterator[Sample]:
        """UserError at the first file that cannot be used."""
        for checked in parallel.ordered(self.jobs(split)):
            errors = [finding for finding in checked.findings if finding.level == "error"]
            if errors or checked.sample is None:
                raise UserError(str(errors[0]))
            yield checked.sample

    def jobs(self, split: Split) -> Iterator[Callable[[], Checked]]:
        """For check.run: each reads, converts and judges one image with its mask."""
        return (partial(self.load, item) for item in self.items(split))

    def findings(self) -> list[Finding]:
        """What the names alone tell."""
        return [Finding("warning", name, "a mask without an image", "orphan") for name in self.layout.orphans]

    def load(self, item: Item) -> Checked:
        where = item.image
        try:
            image = self._read(item.image)
            height, width = images.size(image)
            with check.MEMORY.hold(height * width * check.BYTES_A_PIXEL):
                picture = images.read_image(image)
                found = [Finding("warning", item.image, note, "note") for note in picture.notes]
                where = item.mask or where
                return self._checked(item, picture, found)
        except images.Unreadable as error:
            return Checked(item.image, None, (Finding("error", where, f"cannot be used: {error}"),))

    def _checked(self, item: Item, picture: images.Picture, found: list[Finding]) -> Checked:
        digest = check.digest_of(picture.pixels)
        height, width = picture.pixels.shape[:2]
        sample = partial(Sample, item.image_id, picture.data, height=height, width=width, block=item.block)
        if item.mask is None:
            return Checked(item.image, sample(mask=None), tuple(found), digest=digest)
        data = self._read(item.mask)
        read = images.read_values(data, self.table.color)
        values, turn = read.values, picture.orientation
        if turn >= 5 and height != width and values.shape == (width, height):
            values = images.upright(values, turn)  # drawn on the picture as it is stored, not as it is shown
        elif turn > 1:
            text = f"turned by its EXIF orientation ({turn}): its mask is taken to be drawn on the upright picture"
            found.append(Finding("warning", item.image, text, "turned"))
        if read.grey_as_color:
            text = "an index stored as RGB, three equal channels: the first is read"
            found.append(Finding("warning", item.mask, text, "grey"))
        mask, unlisted = self.table.index(values)
        found += check.judge(item.mask, mask, picture.pixels, unlisted, self.table.allowed)
        if unlisted and data.startswith(b"\xff\xd8"):
            found.append(Finding("error", item.mask, "a JPEG: its compression changes values; save masks as PNG"))
        counts = np.bincount(mask.ravel(), minlength=256).astype(np.int64)
        return Checked(
            item.image, sample(mask=images.png(mask)), tuple(found), counts, digest, self.table.as_index(unlisted)
        )

    def _read(self, name: str) -> bytes:
        try:
            data = (self.root / name).read_bytes()
        except OSError as error:
            raise images.Unreadable(f"{error.strerror}") from None
        if self.hashes is not None and hashlib.sha256(data).hexdigest() != self.hashes.get(name):
            raise images.Unreadable(f"changed since the download stage; {CHANGED}")
        return data
