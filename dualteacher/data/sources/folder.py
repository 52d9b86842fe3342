"""The user's own images in a folder, with masks for some of them.

Images and masks are matched by their paths below their folders, without the file extension. Ambiguous names (`a.jpg`
beside `a.png`) and masks without an image are found before any file is opened.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from dualteacher import settings
from dualteacher.core import seeds
from dualteacher.data import inspection
from dualteacher.data.fetch import Archive
from dualteacher.data.formats import images
from dualteacher.data.formats.label_map import LabelMap
from dualteacher.data.inspection import Checked, Finding
from dualteacher.data.pack import ClassInfo, Sample
from dualteacher.data.sources import Split
from dualteacher.system import console, files, parallel
from dualteacher.system.errors import UserError
from dualteacher.system.os_errors import broken_link

VALIDATION_SEED = 2024  # fixed, so that every run is scored on the same images
CHANGED = "run the download stage again"


@dataclass(frozen=True)
class Entry:
    """An image to pack; paths are relative to the dataset's folder."""

    image_id: str
    image: str
    mask: str | None
    block: str | None


@dataclass(frozen=True)
class Layout:
    """The role of each file."""

    train: list[Entry]
    val: list[Entry]
    orphans: list[str]  # masks without an image

    def files(self) -> list[str]:
        entries = [*self.train, *self.val]
        return sorted([entry.image for entry in entries] + [entry.mask for entry in entries if entry.mask])


class Folder:
    """Implements `sources.Source`."""

    def __init__(self, options: settings.Folder) -> None:
        self.options = options

    def archives(self) -> list[Archive]:
        return [Listing(self.options)]

    def open(self, paths: Sequence[Path]) -> FolderContent:
        (listing,) = paths
        hashes: dict[str, str] = json.loads(listing.read_text(encoding="utf-8"))
        return FolderContent(self.options, arrange(list(hashes), self.options), hashes)

    def look(self) -> FolderContent:
        """The folder's current content, for check-data."""
        return FolderContent(self.options, arrange(scan(self.options), self.options), None)


@dataclass(frozen=True)
class Listing:
    """Hashes of the folder's files, which stay where they are. Implements `fetch.Archive`."""

    options: settings.Folder

    def fetch(self, folder: Path) -> Path:
        """Write files.json: the sha256 of each file that is used."""
        root = Path(self.options.folder)
        names = arrange(scan(self.options), self.options).files()
        jobs = (partial(files.sha256, root / name) for name in names)
        hashes = list(console.progress(parallel.ordered(jobs), "hash", len(names), "file"))
        files.write_json(folder / "files.json", dict(zip(names, hashes, strict=True)))
        return folder / "files.json"

    def describe(self) -> dict[str, str]:
        return {"folder": self.options.folder}


def scan(options: settings.Folder) -> list[str]:
    """Sorted relative paths of the image files in the folders that params.yaml names."""
    root = Path(options.folder)
    if not root.is_dir():
        raise UserError(
            broken_link(root)
            or f"{root}: no such folder; name the one that holds your images (`folder` in params.yaml)"
        )
    used = [options.images, options.masks, options.unlabelled, options.validation.images, options.validation.masks]
    found: set[str] = set()
    for part in dict.fromkeys(folder for folder in used if folder is not None):
        if not (root / part).is_dir():
            raise UserError(broken_link(root / part) or f"{root / part}: no such folder, but params.yaml names it")
        found.update(images.files_below(root / part, root))
    for name in found:
        if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
            raise UserError(f"{root}: a file's name has a line break or is not UTF-8: {name!a}; rename it")
    return sorted(found)


def arrange(names: Sequence[str], options: settings.Folder) -> Layout:
    """Match images with masks and split them into training and validation; UserError if that is ambiguous."""
    validation = options.validation
    folders = [options.images, options.masks, options.unlabelled, validation.images, validation.masks]
    by_folder: dict[str, dict[str, list[str]]] = {folder: {} for folder in folders if folder is not None}
    for name in names:
        folder = _innermost(name, list(by_folder))
        if folder is not None:
            key = str(PurePosixPath(name).relative_to(folder).with_suffix(""))
            by_folder[folder].setdefault(unicodedata.normalize("NFC", key), []).append(name)
    for grouped in by_folder.values():
        _refuse_ambiguous(grouped)
    train, orphans = _pair(by_folder, options.images, options.masks, options)
    if options.unlabelled is not None:
        train += [_entry(names[0], None, options) for names in by_folder[options.unlabelled].values()]
    if validation.images is not None and validation.masks is not None:
        val, more_orphans = _pair(by_folder, validation.images, validation.masks, options)
        orphans += more_orphans
        _need_masks(val, validation.images, validation.masks, by_folder, options)
    else:
        train, val = _split(train, validation.share or 0.0, options)
    _need_masks(train, options.images, options.masks, by_folder, options)
    return Layout(sorted(train, key=_by_id), sorted(val, key=_by_id), sorted(orphans))


def _by_id(entry: Entry) -> str:
    return entry.image_id


def _innermost(name: str, folders: Sequence[str]) -> str | None:
    """The innermost of `folders` that contains the file."""
    parents = {str(parent) for parent in PurePosixPath(name).parents}
    inside = [folder for folder in folders if str(PurePosixPath(folder)) in parents]
    return max(inside, key=lambda folder: len(PurePosixPath(folder).parts), default=None)


def _refuse_ambiguous(grouped: Mapping[str, list[str]]) -> None:
    several = [names for names in grouped.values() if len(names) > 1]
    if several:
        more = f" (and {len(several) - 1} more such names)" if len(several) > 1 else ""
        raise UserError(
            f"{' and '.join(several[0])}: same name except for the extension, so it is unclear which is meant;"
            f" rename or remove one{more}"
        )


def _pair(
    by_folder: Mapping[str, Mapping[str, list[str]]], folder: str, masks: str, options: settings.Folder
) -> tuple[list[Entry], list[str]]:
    """(images with their masks, masks without an image)."""
    suffix = unicodedata.normalize("NFC", options.mask_suffix)
    of_images, of_masks = dict(by_folder[folder]), dict(by_folder[masks])
    if folder == masks:
        of_masks = {key: names for key, names in of_masks.items() if key.endswith(suffix)}
        of_images = {key: names for key, names in of_images.items() if key not in of_masks}
    entries = []
    for key, (name,) in of_images.items():
        mask = of_masks.pop(key + suffix, [None])[0]
        entries.append(_entry(name, mask, options))
    return entries, [name for (name,) in of_masks.values()]


def _entry(image: str, mask: str | None, options: settings.Folder) -> Entry:
    image_id = unicodedata.normalize("NFC", str(PurePosixPath(image).with_suffix("")))
    block = str(PurePosixPath(image).parent) if options.block == "folder" else None
    return Entry(image_id, image, mask, block)


def _split(entries: list[Entry], share: float, options: settings.Folder) -> tuple[list[Entry], list[Entry]]:
    """(training, validation): hold out a share of the images with masks, or of whole sub-folders with `block: folder`.

    Units are ordered by a hash of their names, so adding or removing an image moves few others.
    """
    units = sorted({entry.block or entry.image_id for entry in entries if entry.mask is not None})
    what = "sub-folders" if options.block == "folder" else "images"
    if len(units) < 2:
        raise UserError(
            f"{options.folder}: {len(units)} {what} with masks in {options.images}, but training and validation need"
            f" one each: put masks at {options.masks}/<name of the image>{options.mask_suffix}.png, or name folders for"
            " validation"
        )
    units.sort(key=lambda unit: (seeds.derive(VALIDATION_SEED, "folder", "validation", unit), unit))
    held_out = set(units[: min(max(1, round(share * len(units))), len(units) - 1)])
    val = [entry for entry in entries if (entry.block or entry.image_id) in held_out]
    return [entry for entry in entries if (entry.block or entry.image_id) not in held_out], val


def _need_masks(
    entries: list[Entry],
    folder: str,
    masks: str,
    by_folder: Mapping[str, Mapping[str, list[str]]],
    options: settings.Folder,
) -> None:
    """UserError if no image has a mask."""
    if any(entry.mask is not None for entry in entries):
        return
    example = next((entry.image for entry in entries), f"{folder}/a.jpg")
    expected = f"{masks}/{PurePosixPath(example).relative_to(folder).with_suffix('')}{options.mask_suffix}.png"
    present = next((names[0] for names in by_folder[masks].values()), "no image file")
    raise UserError(
        f"{options.folder}: no image in {folder} has a mask: that of {example} would be {expected}, and {masks} holds"
        f" {present}; correct masks or mask_suffix"
    )


class FolderContent:
    """Images and masks of the folder. Implements `sources.Content`; `jobs` reads, converts and checks in one pass.

    hashes: sha256 by path from the download stage; None to skip that check.
    """

    def __init__(self, options: settings.Folder, layout: Layout, hashes: Mapping[str, str] | None) -> None:
        self.options, self.layout, self.hashes = options, layout, hashes
        self.root = Path(options.folder)
        self.table = LabelMap(options)

    def classes(self) -> list[ClassInfo]:
        return [ClassInfo(entry.name, (*entry.color,)) for entry in self.options.classes]  # type: ignore[arg-type]

    def entries(self, split: Split) -> list[Entry]:
        return self.layout.train if split == "train" else self.layout.val

    def ids(self, split: Split) -> list[str]:
        return [entry.image_id for entry in self.entries(split)]

    def samples(self, split: Split) -> Iterator[Sample]:
        """UserError at the first unusable file."""
        for checked in parallel.ordered(self.jobs(split)):
            errors = [finding for finding in checked.findings if finding.level == "error"]
            if errors or checked.sample is None:
                raise UserError(str(errors[0]))
            yield checked.sample

    def jobs(self, split: Split) -> Iterator[Callable[[], Checked]]:
        """One per image, for `inspection.run`: reads, converts and checks the image and its mask."""
        return (partial(self.load, entry) for entry in self.entries(split))

    def findings(self) -> list[Finding]:
        """Problems visible from the file names."""
        return [Finding("warning", name, "a mask without an image", "orphan") for name in self.layout.orphans]

    def load(self, entry: Entry) -> Checked:
        """Read, convert and check one image and its mask; never raises for a bad file."""
        where = entry.image
        try:
            image = self._read(entry.image)
            height, width = images.size(image)
            with inspection.MEMORY.hold(height * width * inspection.BYTES_PER_PIXEL):
                picture = images.read_image(image)
                found = [Finding("warning", entry.image, note, "note") for note in picture.notes]
                where = entry.mask or where
                return self._checked(entry, picture, found)
        except images.Unreadable as error:
            return Checked(entry.image, None, (Finding("error", where, f"cannot be used: {error}"),))

    def _checked(self, entry: Entry, picture: images.Picture, found: list[Finding]) -> Checked:
        digest = inspection.digest_of(picture.pixels)
        height, width = picture.pixels.shape[:2]
        sample = partial(Sample, entry.image_id, picture.data, height=height, width=width, block=entry.block)
        if entry.mask is None:
            return Checked(entry.image, sample(mask=None), tuple(found), digest=digest)
        data = self._read(entry.mask)
        read = images.read_values(data, self.table.color)
        values, orientation = read.values, picture.orientation
        if orientation >= 5 and height != width and values.shape == (width, height):
            values = images.upright(values, orientation)  # the mask was drawn on the picture as stored
        elif orientation > 1:
            text = f"turned by its EXIF orientation ({orientation}): assuming that its mask fits the upright picture"
            found.append(Finding("warning", entry.image, text, "turned"))
        if read.grey_as_color:
            text = "indices stored as RGB with three equal channels: reading the first"
            found.append(Finding("warning", entry.mask, text, "grey"))
        mask, unlisted = self.table.index(values)
        found += inspection.check_mask(entry.mask, mask, picture.pixels, unlisted, self.table.allowed)
        if unlisted and data.startswith(b"\xff\xd8"):
            found.append(Finding("error", entry.mask, "a JPEG: its compression changes values; save masks as PNG"))
        counts = np.bincount(mask.ravel(), minlength=256).astype(np.int64)
        suspects = self.table.off_by_one_candidates(unlisted)
        return Checked(entry.image, sample(mask=images.png(mask)), tuple(found), counts, digest, suspects)

    def _read(self, name: str) -> bytes:
        try:
            data = (self.root / name).read_bytes()
        except OSError as error:
            raise images.Unreadable(f"{error.strerror}") from None
        if self.hashes is not None and hashlib.sha256(data).hexdigest() != self.hashes.get(name):
            raise images.Unreadable(f"changed since the download stage; {CHANGED}")
        return data
