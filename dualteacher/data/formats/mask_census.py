"""The values or colours of many masks, and whether classes are indices or colours, decided from all of them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dualteacher.data import inspection
from dualteacher.data.formats import images, interpolation, mask_files
from dualteacher.data.formats.interpolation import Texture
from dualteacher.data.formats.palettes import Color, Palettes, used
from dualteacher.system import console, parallel
from dualteacher.system.errors import UserError

MOST_VALUES = 256
KEPT = 1024  # most frequent values of a mask that are remembered; a photo has half a million

Kind = Literal["color", "palette", "grey", "plain", "unusable"]


class Mask(NamedTuple):
    """A mask file. kind: colours (RGB), palette indices, RGB with equal channels, single values, or unusable."""

    name: str
    kind: Kind
    counts: dict[int, int]  # pixels of each index, or of each colour (packed) if kind is "color"
    colors: dict[int, Color]  # of the indices, if there is a palette
    pixels: int = 0
    texture: Texture = interpolation.NOTHING
    problem: str = ""
    lossy: bool = False  # see mask_files.Values


@dataclass
class Census:
    """All masks together."""

    color: bool  # whether colours, not indices, tell the classes apart
    why: str = ""  # the reason, if the files hold indices nevertheless
    counts: Counter[int] = field(default_factory=Counter)  # pixels of each index, or of each colour (packed), in order
    colors: dict[int, Color] = field(default_factory=dict)  # of the indices, from the palettes
    unusable: list[str] = field(default_factory=list)  # «name (reason)»
    pixels: int = 0  # of all masks
    areas: list[int] | None = None  # the values that fill areas, if the others are interpolated
    levels: bool = False  # whether the values look like grey levels, not like classes


def take(root: Path, names: Sequence[str]) -> Census:
    """Read masks; UserError if none can be read, or if they contradict each other."""
    jobs = (partial(_mask, root, name) for name in names)
    masks = list(console.progress(parallel.ordered(jobs), "look", len(names), "mask"))
    unusable = [f"{inspection.printable(mask.name)} ({mask.problem})" for mask in masks if mask.kind == "unusable"]
    usable = [mask for mask in masks if mask.kind != "unusable"]
    if not usable:
        raise UserError(f"{root}: none of {len(names)} masks can be read, the first is {unusable[0]}")
    photos = [mask for mask in usable if mask.kind == "color" and len(mask.counts) > MOST_VALUES]
    if any(mask.kind != "color" for mask in usable) and 2 * len(photos) <= len(usable):
        usable = [mask for mask in usable if mask not in photos]
        unusable += [f"{inspection.printable(mask.name)} (more than {MOST_VALUES} colours)" for mask in photos]
    palettes = Palettes()
    for mask in usable:
        if mask.kind == "palette":
            palettes.add(inspection.printable(mask.name), mask.colors)
    conflict = palettes.conflict() or ""
    colored, strangers = _sides(usable)
    if conflict and strangers:
        raise UserError(
            f"{root}: the masks' palettes differ ({conflict}), but {inspection.printable(strangers[0].name)} has none:"
            " save all masks alike"
        )
    if conflict or len(colored) > len(strangers):
        return _of_colors(root, usable, conflict, unusable)
    colors = {index: next(iter(found)) for index, found in palettes.colors.items()}
    unusable += [f"{inspection.printable(mask.name)} (colours)" for mask in colored]
    usable = [mask for mask in usable if mask.kind != "color"]
    counts: Counter[int] = Counter()
    for mask in usable:
        counts.update(mask.counts)
    seen = _together(usable)
    lossy = any(mask.lossy for mask in usable)
    areas, levels = interpolation.areas(seen, color=False, lossy=lossy), interpolation.are_levels(seen)
    pixels = sum(mask.pixels for mask in usable)
    return Census(False, "", Counter(dict(sorted(counts.items()))), colors, unusable, pixels, areas, levels)


def _of_colors(root: Path, masks: Sequence[Mask], why: str, unusable: list[str]) -> Census:
    """In the order of the fullest palette if palettes differ, then by value."""
    counts: Counter[int] = Counter()
    for mask in masks:
        counts.update(_as_colors(root, mask))
    palette = max((mask.colors for mask in masks), key=len) if why else {}
    places = {mask_files.pack_color(list(color)): place for place, color in enumerate(palette.values())}
    listed = sorted(counts.items(), key=lambda item: (places.get(item[0], len(places)), item[0]))
    seen = _together([mask for mask in masks if mask.kind == "color"])
    lossy = any(mask.lossy for mask in masks)
    areas, levels = interpolation.areas(seen, color=True, lossy=lossy), interpolation.are_levels(seen)
    pixels = sum(mask.pixels for mask in masks)
    return Census(True, why, Counter(dict(listed)), {}, unusable, pixels, areas, levels)


def _together(masks: Sequence[Mask]) -> Texture:
    return functools.reduce(Texture.__add__, (mask.texture for mask in masks), interpolation.NOTHING)


def _mask(root: Path, name: str) -> Mask:
    try:
        data = (root / name).read_bytes()
        try:
            read = mask_files.read_values(data, color=False)
        except mask_files.Colored:
            read = mask_files.read_values(data, color=True)
            texture = interpolation.texture(read.values, color=True).most(KEPT)
            return Mask(name, "color", _most(read.values), {}, read.values.size, texture, lossy=read.lossy)
    except OSError as error:
        return Mask(name, "unusable", {}, {}, problem=f"{error.strerror}")
    except images.Unreadable as error:
        return Mask(name, "unusable", {}, {}, problem=str(error))
    counts = _most(read.values)
    if read.palette is not None:
        return Mask(name, "palette", counts, used(read.values, read.palette), read.values.size)
    kind: Kind = "grey" if read.grey_as_color else "plain"
    texture = interpolation.texture(read.values, color=False).most(KEPT)
    return Mask(name, kind, counts, {}, read.values.size, texture, lossy=read.lossy)


def _most(values: np.ndarray) -> dict[int, int]:
    """Pixels of each value, of the most frequent ones."""
    return dict(Counter(inspection.counted(values)).most_common(KEPT))


def _sides(masks: Sequence[Mask]) -> tuple[list[Mask], list[Mask]]:
    """(masks with colours, masks without whose values are no greys of the former, so that they must be indices)."""
    colored = [mask for mask in masks if mask.kind == "color"]
    shown = {color for mask in colored for color in mask.counts}
    shown |= {mask_files.pack_color(list(color)) for mask in masks for color in mask.colors.values()}
    grey = [mask for mask in masks if mask.kind in ("grey", "plain")]
    return colored, [mask for mask in grey if any(value * 0x010101 not in shown for value in mask.counts)]


def _as_colors(root: Path, mask: Mask) -> dict[int, int]:
    """Pixels of each colour."""
    if mask.kind == "color":
        return mask.counts
    if mask.kind == "palette":
        total: Counter[int] = Counter()
        for index, number in mask.counts.items():
            total[mask_files.pack_color(list(mask.colors.get(index, (0, 0, 0))))] += number
        return total
    return inspection.counted(mask_files.read_values((root / mask.name).read_bytes(), color=True).values)
