"""A folder of the user's own images, with masks for some of them; see formats/folder_layout.py for its layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from dualteacher import settings
from dualteacher.core.labels import IGNORE
from dualteacher.data import inspection, likeness
from dualteacher.data.channels import Channels, shown
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.fetch import Archive
from dualteacher.data.formats import file_kinds, folder_files, images, mask_files, palettes
from dualteacher.data.formats.annotations import record, renewal
from dualteacher.data.formats.folder_layout import Entry, Layout, arrange, scan
from dualteacher.data.formats.label_map import LabelMap
from dualteacher.data.inspection import Checked, Finding
from dualteacher.data.pack import Sample
from dualteacher.data.sources import Split
from dualteacher.system import console, files, parallel
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError
from dualteacher.system.os_errors import broken_link

CHANGED = "run the download stage again"
PERCENTILES = (1, 99)  # of `range: percentile`
MEASURED = 1 << 20  # pixels to measure them on, over all training images


class Folder:
    """Implements `sources.Source`."""

    def __init__(self, options: settings.Folder) -> None:
        self.options = options

    def classes(self) -> list[ClassInfo]:
        return [ClassInfo(entry.name, (*entry.color,)) for entry in self.options.classes]  # type: ignore[arg-type]

    def archives(self) -> list[Archive]:
        return [Listing(self.options)]

    def open(self, paths: Sequence[Path]) -> FolderContent:
        (listing,) = paths
        hashes: dict[str, str] = json.loads(listing.read_text(encoding="utf-8"))
        for name in filter(None, (self.options.validation.list, self.options.validation.test)):
            if files.sha256(Path(self.options.folder) / name) != hashes.get(name):
                raise UserError(f"{Path(self.options.folder) / name}: changed since the download stage; {CHANGED}")
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
        if renewed := renewal.renew(self.options):
            logger.warning("%s", renewed)
        names = arrange(scan(self.options), self.options).files()
        jobs = (partial(files.sha256, root / name) for name in names)
        hashes = list(console.progress(parallel.ordered(jobs), "hash", len(names), "file"))
        files.write_json(folder / "files.json", dict(zip(names, hashes, strict=True)))
        logger.info("%s: hashes of the %d files used", root, len(names))
        return folder / "files.json"

    def describe(self) -> dict[str, str]:
        return {"folder": self.options.folder}


class FolderContent:
    """Images and masks of the folder. Implements `sources.Content`; `jobs` reads, converts and checks in one pass.

    hashes: sha256 by path from the download stage; None to skip that check.
    """

    def __init__(self, options: settings.Folder, layout: Layout, hashes: Mapping[str, str] | None) -> None:
        self.options, self.layout, self.hashes = options, layout, hashes
        self.root = Path(options.folder)
        self.table = LabelMap(options)

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
        _ = self.channels  # measured before threads need it
        return (partial(self.load, entry) for entry in self.entries(split))

    @cached_property
    def channels(self) -> Channels:
        """The images' channels; `range: percentile` is measured here, on all training images."""
        bands = None if self.options.bands is None else tuple(self.options.bands)
        if self.options.range == "percentile":
            return self._measured(Channels(bands, None, self.options.rgb, self.options.depth))
        limits = tuple((low, high) for low, high in self.options.limits) or None
        return Channels(bands, limits, self.options.rgb, self.options.depth)

    def _measured(self, channels: Channels) -> Channels:
        names = [entry.image for entry in self.layout.train]
        jobs = (partial(self._some_values, name, channels, -(-MEASURED // len(names))) for name in names)
        found = list(console.progress(parallel.ordered(jobs), "measure range", len(names), "image"))
        values = np.concatenate([np.empty((0, channels.count)), *found])
        if not len(values):
            raise UserError(f"{self.root}: no training image can be read; run `python -m dualteacher check-data`")
        limits = np.percentile(values, PERCENTILES, axis=0).T
        return replace(channels, limits=tuple((low, high if high > low else low + 1) for low, high in _rounded(limits)))

    def _some_values(self, name: str, channels: Channels, number: int) -> np.ndarray:
        """At most `number` evenly spaced pixels with data, (n, C); none of an unusable file."""
        try:
            data = self._read(name)
            height, width = images.size(data)
            with inspection.MEMORY.hold(height * width * _bytes_per_pixel(channels)):
                stored = images.read_stored(data, channels.bands is not None)
                known = ~channels.missing(stored.values, stored.nodata)
                step = -(-int(known.sum()) // number) or 1
                return np.stack([band[known][::step] for band in channels.select(stored.values)], axis=1)
        except images.Unreadable:
            return np.empty((0, channels.count))

    def findings(self) -> list[Finding]:
        """Problems visible from the file names."""
        orphans = [Finding("warning", name, "a mask without an image", "orphan") for name in self.layout.orphans]
        for listed, unknown in self.layout.lists.items():
            text = f"names {len(unknown)} images that are not there, or not once, for example {unknown[:1]}"
            orphans += [Finding("warning", listed, text, "list")] if unknown else []
        changed = "changed since masks were made of it; the download stage makes them anew"
        return orphans + [
            Finding("warning", name, changed, "annotations") for name in record.outdated(self.root, self.options.masks)
        ]

    def unused(self) -> list[str]:
        """What lies in the folder and is not used: one line per kind of file."""
        left = folder_files.unused(self.root, self.layout.files())
        if self.layout.lists:
            left.pop(file_kinds.LISTS, None)  # the training images: all that the other lists do not name
        return file_kinds.described(left)

    def load(self, entry: Entry) -> Checked:
        """Read, convert and check one image and its mask; never raises for a bad file."""
        where = entry.image
        try:
            image = self._read(entry.image)
            height, width = images.size(image)
            with inspection.MEMORY.hold(height * width * _bytes_per_pixel(self.channels)):
                picture = images.read_image(image, self.channels)
                found = [Finding("warning", entry.image, note, "note") for note in picture.notes]
                where = entry.mask or where
                return self._checked(entry, picture, found)
        except images.Unreadable as error:
            return Checked(entry.image, None, (Finding("error", where, f"cannot be used: {error}"),))

    def _checked(self, entry: Entry, picture: images.Picture, found: list[Finding]) -> Checked:
        result = partial(
            Checked,
            entry.image,
            digest=inspection.digest_of(picture.pixels),
            picture=likeness.picture(inspection.printable(entry.image), entry.image_id, shown(picture.pixels)),
        )
        height, width = picture.pixels.shape[:2]
        sample = partial(Sample, entry.image_id, picture.data, height=height, width=width, block=entry.block)
        if entry.mask is None:
            return result(sample(mask=None), tuple(found))
        data = self._read(entry.mask)
        read = mask_files.read_values(data, self.table.color)
        values, orientation = read.values, picture.orientation
        if orientation >= 5 and height != width and values.shape == (width, height):
            values = images.upright(values, orientation)  # the mask was drawn on the picture as stored
        elif orientation > 1:
            text = f"turned by its EXIF orientation ({orientation}): assuming that its mask fits the upright picture"
            found.append(Finding("warning", entry.image, text, "turned"))
        if read.grey_as_color:
            text = "indices stored as RGB with three equal channels: reading the first"
            found.append(Finding("warning", entry.mask, text, "grey"))
        mask, unlisted, nearest, far = self.table.index(values, exact=read.palette is not None and not self.table.color)
        if picture.missing is not None and mask.shape == picture.missing.shape:
            mask[picture.missing] = IGNORE
        if nearest or far:
            text = f"unlisted values: {nearest} pixels take the nearest listed value"
            text += f", {far} beyond the tolerance are ignored" if far else ""
            found.append(Finding("warning", entry.mask, text, "tolerance"))
        found += inspection.check_mask(entry.mask, mask, picture.pixels, unlisted, self.table.allowed)
        if unlisted and data.startswith(b"\xff\xd8"):
            found.append(
                Finding(
                    "error", entry.mask, "a JPEG: its compression changes values; save masks as PNG, or set `tolerance`"
                )
            )
        counts = np.bincount(mask.ravel(), minlength=256).astype(np.int64)
        suspects = self.table.off_by_one_candidates(unlisted)
        colors = None
        if read.palette is not None and not self.table.color:
            colors = entry.mask, palettes.used(read.values, read.palette)
        return result(sample(mask=images.png(mask)), tuple(found), counts, unlisted=suspects, palette=colors)

    def _read(self, name: str) -> bytes:
        try:
            data = (self.root / name).read_bytes()
        except OSError as error:
            link = broken_link(self.root / name)
            raise images.Unreadable(link.partition(": ")[2] if link else f"{error.strerror}") from None
        if self.hashes is not None and hashlib.sha256(data).hexdigest() != self.hashes.get(name):
            raise images.Unreadable(f"changed since the download stage; {CHANGED}")
        return data


def _rounded(values: np.ndarray) -> list[list[float]]:
    """To six digits, which read well in a description."""
    return [[float(f"{value:.6g}") for value in row] for row in values]


def _bytes_per_pixel(channels: Channels) -> int:
    """Memory to decode and check an image: values of up to 8 bytes, and one band as floats."""
    return inspection.BYTES_PER_PIXEL * (1 if channels.ordinary else 1 + channels.count)
