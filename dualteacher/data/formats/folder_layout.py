"""Match the images and masks in a user's folder by name and split them into training and validation.

Images and masks are matched by their paths below their folders, without the file extension. Ambiguous names (`a.jpg`
and `a.png`) and masks without an image are found before any file is opened.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dualteacher import settings
from dualteacher.core import seeds
from dualteacher.data import likeness
from dualteacher.data.formats import folder_files, folder_patterns, split_lists
from dualteacher.data.formats.folder_roles import not_photos
from dualteacher.data.formats.name_pairs import Affixes
from dualteacher.system.errors import UserError
from dualteacher.system.os_errors import broken_link

VALIDATION_SEED = 2024  # fixed, so that every run is scored on the same images


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
    lists: dict[str, list[str]] = field(default_factory=dict)  # lists of a split: names in them that fit no image

    def files(self) -> list[str]:
        entries = [*self.train, *self.val]
        masks = [entry.mask for entry in entries if entry.mask]
        return sorted([*(entry.image for entry in entries), *masks, *self.lists])


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
        places = folder_patterns.matching(root, part)
        if not places or not places[0].is_dir():
            raise UserError(broken_link(root / part) or f"{root / part}: no such folder, but params.yaml names it")
        for place in places:
            found.update(folder_files.files_below(place, root))
    for name in found:
        if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
            raise UserError(f"{root}: a file's name has a line break or is not UTF-8: {name!a}; rename it")
    return sorted(found)


def arrange(names: Sequence[str], options: settings.Folder) -> Layout:
    """Match images with masks and split them into training and validation; UserError if that is ambiguous."""
    validation = options.validation
    folders = [options.images, options.masks, options.unlabelled, validation.images, validation.masks]
    by_folder: dict[str, dict[str, list[str]]] = {folder: {} for folder in folders if folder is not None}
    lists = [name for name in (validation.list, validation.test) if name is not None]
    unknown: dict[str, list[str]] = {}
    for name in names:
        folder = _innermost(name, list(by_folder))
        if folder is not None and name not in lists:
            key = _key(name, folder)
            by_folder[folder].setdefault(unicodedata.normalize("NFC", key), []).append(name)
    for grouped in by_folder.values():
        _refuse_ambiguous(grouped)
    train, orphans = _pair(by_folder, options.images, options.masks, options)
    if options.unlabelled is not None:
        more = [_entry(names[0], None, options) for names in by_folder[options.unlabelled].values()]
        train += _photos(more, options.unlabelled)
    if validation.images is not None and validation.masks is not None:
        val, more_orphans = _pair(by_folder, validation.images, validation.masks, options)
        orphans += more_orphans
        _need_masks(val, validation.images, validation.masks, by_folder, options)
    elif lists:
        train, val, unknown = _listed(train, options)
    else:
        train, val = _split(train, validation.share or 0.0, options)
    _need_masks(train, options.images, options.masks, by_folder, options)
    return Layout(sorted(train, key=_by_id), sorted(val, key=_by_id), sorted(orphans), unknown)


def _key(name: str, folder: str) -> str:
    return str(PurePosixPath(folder_patterns.relative(name, folder) or name).with_suffix(""))


def _by_id(entry: Entry) -> str:
    return entry.image_id


def _innermost(name: str, folders: Sequence[str]) -> str | None:
    """The innermost of `folders` that contains the file."""
    inside = [folder for folder in folders if folder_patterns.relative(name, folder) is not None]
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
    affixes = affixes_of(options)
    of_images, of_masks = dict(by_folder[folder]), dict(by_folder[masks])
    if folder == masks:
        of_masks = {key: names for key, names in of_masks.items() if affixes.is_mask(key)}
        of_images = {key: names for key, names in of_images.items() if key not in of_masks}
    entries = []
    for key, (name,) in of_images.items():
        if (core := affixes.core(key)) is None:
            continue
        wanted = affixes.mask(core), affixes.mask(core + PurePosixPath(name).suffix)  # a.png, a.jpg.png
        mask = next((of_masks.pop(other)[0] for other in wanted if other in of_masks), None)
        entries.append(_entry(name, mask, options))
    return _photos(entries, folder), [name for (name,) in of_masks.values()]


def _photos(entries: Sequence[Entry], folder: str) -> list[Entry]:
    """Without the overlays, coloured masks and the like that lie beside or below the photos they are named like."""
    below = {folder_patterns.relative(entry.image, folder) or entry.image: entry for entry in entries}
    made = {*not_photos(list(below))}
    return [entry for name, entry in below.items() if name not in made or entry.mask is not None]


def affixes_of(options: settings.Folder) -> Affixes:
    """What distinguishes the names of images and masks; accents spelt as in the keys."""
    named = options.image_prefix, options.image_suffix, options.mask_prefix, options.mask_suffix
    return Affixes(*(unicodedata.normalize("NFC", affix) for affix in named))


def _entry(image: str, mask: str | None, options: settings.Folder) -> Entry:
    image_id = unicodedata.normalize("NFC", str(PurePosixPath(image).with_suffix("")))
    parent = str(PurePosixPath(image).parent)
    block = {"image": None, "folder": parent, "stem": likeness.original(image_id)}[options.block]
    return Entry(image_id, image, mask, block)


def _split(entries: list[Entry], share: float, options: settings.Folder) -> tuple[list[Entry], list[Entry]]:
    """(training, validation): hold out a share of the images with masks, or of whole blocks.

    Units are ordered by a hash of their names, so adding or removing an image moves few others.
    """
    units = sorted({entry.block or entry.image_id for entry in entries if entry.mask is not None})
    what = {"image": "images", "folder": "sub-folders", "stem": "photos"}[options.block]
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


def _listed(entries: list[Entry], options: settings.Folder) -> tuple[list[Entry], list[Entry], dict[str, list[str]]]:
    """(training, validation, names that fit no image by list); the images of the test list are in neither."""
    images = [entry.image for entry in entries]
    named: dict[str, set[str]] = {}
    unknown: dict[str, list[str]] = {}
    for name in filter(None, (options.validation.list, options.validation.test)):
        named[name], unknown[name] = split_lists.resolve(Path(options.folder) / name, images)
    held_out = named[options.validation.list or ""]
    if not any(entry.image in held_out and entry.mask is not None for entry in entries):
        raise UserError(
            f"{options.folder}: {options.validation.list} names no image with a mask; correct it, or `list`"
        )
    left_out = named.get(options.validation.test or "", set())
    val = [entry for entry in entries if entry.image in held_out]
    return [entry for entry in entries if entry.image not in held_out | left_out], val, unknown


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
    key = _key(example, folder)
    affixes = affixes_of(options)
    expected = f"{folder_patterns.filled(masks, affixes.mask(affixes.core(key) or key))}.png"
    present = next((names[0] for names in by_folder[masks].values()), "no image file")
    raise UserError(
        f"{options.folder}: no image in {folder} has a mask: that of {example} would be {expected}, and {masks} holds"
        f" {present}; correct masks or mask_suffix"
    )
