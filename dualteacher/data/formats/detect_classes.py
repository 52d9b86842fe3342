"""Guess which classes mask files contain and how they encode them, for `init`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dualteacher.core.labels import IGNORE
from dualteacher.data import inspection
from dualteacher.data.class_table import voc_color
from dualteacher.data.formats import class_lists, interpolation, mask_census, mask_files
from dualteacher.data.formats.mask_census import MOST_VALUES
from dualteacher.data.formats.palettes import Color
from dualteacher.settings.datasets import MOST_CLASSES
from dualteacher.system.errors import UserError

LARGEST = {2**15 - 1, 2**16 - 1, 2**31 - 1}  # often no data in masks of such integers, like negative numbers


@dataclass(frozen=True)
class GuessedClasses:
    """Classes and ignored values as in params.yaml, and the assumptions behind them."""

    classes: list[dict[str, Any]]
    ignore: list[Any]
    assumed: list[str] = field(default_factory=list)
    tolerance: float = 0.0


def guess(root: Path, masks: Sequence[str]) -> GuessedClasses:
    """The classes of the masks, named by classes.json or classes.txt in `root` if there is one."""
    census = mask_census.take(root, masks)
    lossy = [name for name in masks if name.lower().endswith((".jpg", ".jpeg"))]
    if lossy and census.areas is None:
        first = inspection.printable(lossy[0])
        raise UserError(f"{root}: {first} is a JPEG, whose compression changes class values; save masks as PNG")
    empty = census.counts.pop(mask_files.NO_DATA, 0)
    if census.areas is not None:
        census.counts = Counter({value: census.counts[value] for value in census.areas})
    if len(census.counts) > MOST_VALUES:
        raise _too_many(root, census)
    named, origin = _named(root)
    listed = bool(named) and all("value" in entry for entry in named)
    if census.levels and census.areas is None and not listed:
        raise UserError(
            f"{root}: the masks hold {len(census.counts)} {'colours' if census.color else 'values'}, few of which fill"
            " areas: are they photos, probability maps or smoothed masks? Save one value per class, without smoothing"
        )
    found = list(census.counts)
    if census.color:
        made = _by_color(found, named, origin, census.why)
    else:
        made = _by_index(found, named, origin, census.colors)
    if census.areas is not None:
        edges = 1 - census.counts.total() / census.pixels
        made = _with_tolerance(made, census.areas, census.color, edges)
    if len(made.classes) > MOST_CLASSES:
        raise _too_many(root, census)
    if not census.color and found and found[-1] > IGNORE:
        made.assumed.append(f"masks: values up to {found[-1]}: if they number objects, save masks of classes instead")
    unusable = len(census.unusable)
    if len(made.classes) < 2:
        left_out = f"; {unusable} masks cannot be used, the first is {census.unusable[0]}" if unusable else ""
        raise UserError(
            f"{root}: the masks show {_so_few(made)}; at least two classes are needed, e.g. a background{left_out}"
        )
    made.assumed.append(_rarest(made.classes, census))
    if not named:
        first = made.classes[0]["name"]
        made.assumed.append(f"class names: {first}, … are placeholders; rename in params.yaml, now or after training")
    if empty:
        made.assumed.append(f"{empty} pixels of the masks hold NaN: ignored")
    if unusable:
        made.assumed.append(
            f"{unusable} masks cannot be used, the first is {census.unusable[0]};"
            " `python -m dualteacher check-data` lists them"
        )
    return made


def _so_few(made: GuessedClasses) -> str:
    """The only class, or why there is none."""
    if made.classes:
        return f"only one class, value {made.classes[0]['value']}"
    return f"no class: all their values ({', '.join(map(str, made.ignore))}) mean no class"


def _rarest(classes: Sequence[Mapping[str, Any]], census: mask_census.Census) -> str:
    """The class with the fewest pixels, for class weights."""
    keys = [mask_files.pack_color(entry["value"]) if census.color else entry["value"] for entry in classes]
    pixels = [census.counts[key] for key in keys]
    number, name = min(zip(pixels, (str(entry["name"]) for entry in classes), strict=True))
    return f"rarest class: {name} ({number / max(sum(pixels), 1):.1%} of the labelled pixels)"


def _too_many(root: Path, census: mask_census.Census) -> UserError:
    what = "colours" if census.color else "values"
    return UserError(
        f"{root}: the masks hold more than {MOST_CLASSES} {what}, so they are not class masks: perhaps they number"
        " objects, or were saved as JPEG once"
    )


def _with_tolerance(made: GuessedClasses, found: Sequence[int], color: bool, edges: float) -> GuessedClasses:
    """Set a tolerance for masks with interpolated values. found: the other values. edges: share of the pixels."""
    values = [entry["value"] for entry in made.classes]
    ignore = [v for v in made.ignore if (mask_files.pack_color(v) if color else v) in found]
    ignore = [v for v in ignore if min(_distance(v, value) for value in values) > interpolation.NOISE]
    listed = [*values, *ignore]
    least = min(_distance(a, b) for i, a in enumerate(listed) for b in listed[:i])
    tolerance = least / (2 if len(listed) == 2 else 4)
    what, shown = ("colours", f"{len(found)} colours") if color else ("values", _ranges(found))
    text = (
        f"masks: only {shown} fill areas; other {what} ({edges:.1%} of the pixels) stand at edges, as"
        f" after smooth resizing or lossy compression: they take the nearest within `tolerance: {tolerance:g}`"
    )
    if len(listed) > 2:
        text += ", farther ones are ignored; better save the masks again, without smoothing"
    return GuessedClasses(made.classes, ignore, [text, *made.assumed], tolerance)


def _distance(one: int | list[int], other: int | list[int]) -> float:
    return float(np.linalg.norm(np.subtract(one, other)))


def _named(root: Path) -> tuple[list[dict[str, Any]], str]:
    """(entries of classes.json or classes.txt, the file's name); each entry has a name and perhaps value and color.

    classes.txt: one name per line. classes.json: a list of names, a list of {"name", "value", "color"} (the latter two
    optional), or a mapping of names to values (an index or [r, g, b]).
    """
    text, listed = root / "classes.txt", root / "classes.json"
    try:
        if listed.is_file():
            content = json.loads(listed.read_text(encoding="utf-8-sig"))
            if isinstance(content, dict):
                content = [{"name": name, "value": value} for name, value in content.items()]
            entries = [{"name": entry} if isinstance(entry, str) else dict(entry) for entry in content]
            if any(not isinstance(entry.get("name"), str) for entry in entries):
                raise ValueError("every class needs a name")
            return entries, listed.name
        if text.is_file():
            lines = text.read_text(encoding="utf-8-sig").splitlines()
            return [{"name": line.strip()} for line in lines if line.strip()], text.name
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{root}: classes.txt or classes.json cannot be read ({error})") from None
    return class_lists.read(root)


def _by_color(values: list[int], named: list[dict[str, Any]], origin: str, why: str) -> GuessedClasses:
    """why: the reason to take the colours of masks that hold indices."""
    reason = [f"masks: told apart by colour, not by index, since their palettes differ ({why})"] if why else []
    found = [[value >> 16, value >> 8 & 255, value & 255] for value in values]
    if not named:
        classes = [{"name": f"class_{i}", "color": color, "value": color} for i, color in enumerate(found)]
        assumed = [f"masks: {len(found)} colours, each taken as a class (docs/own-data.md, Masks: ignore)"]
        return GuessedClasses(classes, [], reason + assumed)
    for entry in named:
        entry["value"] = next((v for v in (entry.get("value"), entry.get("color")) if isinstance(v, list)), None)
    if any(entry["value"] is None for entry in named):
        because = f"the masks' palettes differ ({why})" if why else "the masks are coloured"
        raise UserError(f'{origin}: {because}, so every class needs a colour: "color": [r, g, b]')
    known = [entry["value"] for entry in named]
    extra = [color for color in found if color not in known]
    assumed = [*reason, f"masks: colours, named by {origin}"]
    if extra:
        assumed.append(f"ignored: {len(extra)} other colours in the masks, {extra[0]} among them")
    classes = [{"name": e["name"], "color": e.get("color", e["value"]), "value": e["value"]} for e in named]
    return GuessedClasses(classes, extra, assumed)


def _by_index(
    values: list[int], named: list[dict[str, Any]], origin: str, palette: Mapping[int, Color]
) -> GuessedClasses:
    shown = f"masks: values {_ranges(values)}"
    rest = [value for value in values if value >= 0 and value not in LARGEST]
    missing = [value for value in values if value not in rest] if len(rest) > 1 else []
    values = rest if missing else values
    plain = [value for value in values if value != IGNORE]
    assumed: list[str] = []
    if named and all("value" in entry for entry in named):
        listed = [entry["value"] for entry in named]
        ignore = [value for value in [*missing, *values] if value not in listed]
        missing = []
        assumed.append(f"{shown}, named by {origin}" + (f"; {_ranges(ignore)} ignored" if ignore else ""))
    elif named:
        listed, ignore = _match(plain, len(named), values, origin)
        assumed.append(f"{shown}; {origin} names {_ranges(listed)} in this order, ignored: {_ranges(ignore)}")
    elif values == [0, IGNORE]:
        listed, ignore = values, []
        assumed.append(f"{shown}: two classes, 255 is one of them (docs/own-data.md, Masks: ignore)")
    elif len(values) == 3 and values in ([0, 127, IGNORE], [0, 128, IGNORE]):
        listed, ignore = [0, IGNORE], [values[1]]
        assumed.append(f"{shown}: a trimap, of which 0 and 255 are classes and {values[1]} is unknown, so ignored")
    else:
        listed, ignore = plain, [IGNORE]
        assumed.append(f"{shown}: each a class except 255, which is ignored")
    if missing:
        ignore = [*ignore, *missing]
        assumed.append(f"ignored: {_ranges(missing)}, taken for no data")
    names = [entry["name"] for entry in named] or [f"class_{value}" for value in listed]
    colors = [list(entry["color"]) if "color" in entry else None for entry in named] or [None] * len(listed)
    fallback = _colors(listed, palette)
    classes = [
        {"name": name, "color": color or other, "value": value}
        for name, color, other, value in zip(names, colors, fallback, listed, strict=True)
    ]
    return GuessedClasses(classes, ignore, assumed)


def _match(plain: list[int], number: int, values: list[int], origin: str) -> tuple[list[int], list[int]]:
    """(values of the `number` named classes, values to ignore)."""
    if values == [0, IGNORE] and number == 2:
        return values, []
    highest = max(plain, default=0)
    if highest < number:
        return list(range(number)), [IGNORE]
    if highest == number:  # classes are 1…n, 0 is not a class
        return list(range(1, number + 1)), [0, *([IGNORE] if IGNORE in values else [])]
    for those in (plain, values):
        if len(those) == number:
            return those, [IGNORE] if IGNORE not in those else []
    raise UserError(
        f"{origin} names {number} classes, but the masks hold the values {_ranges(values)}; give each class a value"
    )


def _colors(values: list[int], palette: Mapping[int, Color]) -> list[list[int]]:
    """Colours of the masks' palettes if they differ and are not all grey, else PASCAL VOC's."""
    if palette and all(value in palette for value in values):
        colors = [list(palette[value]) for value in values]
        if len({tuple(color) for color in colors}) == len(colors) and not all(len(set(c)) == 1 for c in colors):
            return colors
    return [list(voc_color(index)) for index in range(len(values))]


def _ranges(values: Sequence[Any]) -> str:
    """«0…4, 255»; «none»."""
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ", ".join(f"{p[0]}…{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts) or "none"
