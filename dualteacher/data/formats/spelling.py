"""Guess which classes mask files show and how they spell them, for `init`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dualteacher.core.labels import IGNORE
from dualteacher.data import check
from dualteacher.data.formats import images
from dualteacher.data.sources.published import voc_color
from dualteacher.system import console, parallel
from dualteacher.system.errors import UserError

MOST_VALUES = 256
Palette = tuple[tuple[int, int, int], ...] | None


@dataclass(frozen=True)
class Spelling:
    """Classes as in params.yaml, and what was assumed to find them."""

    classes: list[dict[str, Any]]
    ignore: list[Any]
    assumed: list[str] = field(default_factory=list)


def guess(root: Path, masks: Sequence[str]) -> Spelling:
    """The classes of the masks, by classes.json or classes.txt in `root` where there is one."""
    if lossy := [name for name in masks if name.lower().endswith((".jpg", ".jpeg"))]:
        first = check.printable(lossy[0])
        raise UserError(
            f"{root}: {first} is a JPEG, whose compression changes the values of classes: save masks as PNG"
        )
    color = _color(root, masks)
    jobs = (partial(_values, root / name, color) for name in masks)
    values: Counter[int] = Counter()
    palette: Palette = None
    unread = 0
    for read in console.progress(parallel.ordered(jobs), "look", len(masks), "mask"):
        if read is None:
            unread += 1
            continue
        values.update(read[0])
        palette = palette or read[1]
        if len(values) > MOST_VALUES:
            what = "colours" if color else "values"
            raise UserError(f"{root}: the masks hold more than {MOST_VALUES} {what}: no class masks (or JPEG, say)")
    named, origin = _named(root)
    found = sorted(values)
    made = _by_color(found, named, origin) if color else _by_index(found, named, origin, palette)
    if len(made.classes) < 2:
        raise UserError(f"{root}: the masks show {len(made.classes)} class; at least two are needed, say a background")
    if unread:
        made.assumed.append(f"{unread} masks cannot be read: `python -m dualteacher check-data` says why")
    return made


def _color(root: Path, masks: Sequence[str]) -> bool:
    """Whether the masks spell classes by colours: the first that can be read tells."""
    first: object = None
    for name in masks:
        try:
            images.read_values((root / name).read_bytes(), color=False)
            return False
        except images.Colored:
            return True
        except (OSError, images.Unreadable) as error:
            first = first or f"{check.printable(name)} ({error})"
    raise UserError(f"{root}: none of {len(masks)} masks can be read, the first is {first}")


def _values(path: Path, color: bool) -> tuple[dict[int, int], Palette] | None:
    try:
        read = images.read_values(path.read_bytes(), color)
        return check.counted(read.values), read.palette
    except (OSError, images.Unreadable):
        return None


def _named(root: Path) -> tuple[list[dict[str, Any]], str]:
    """Classes of classes.json or classes.txt, with a name and what else is said of each; and the file's name.

    classes.txt: a name a line. classes.json: a list of names, a list of {"name", "value", "color"} with or
    without the latter two, or a mapping of names to values (an index or [r, g, b]).
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
    return [], ""


def _by_color(values: list[int], named: list[dict[str, Any]], origin: str) -> Spelling:
    found = [[value >> 16, value >> 8 & 255, value & 255] for value in values]
    if not named:
        classes = [{"name": f"class_{i}", "color": color, "value": color} for i, color in enumerate(found)]
        return Spelling(
            classes, [], [f"masks: {len(found)} colours, each taken for a class (docs/own-data.md, Masks: ignore)"]
        )
    for entry in named:
        entry["value"] = entry.get("value", entry.get("color"))
    if any(not isinstance(entry["value"], list) for entry in named):
        raise UserError(f'{origin}: the masks are coloured, so every class needs its colour: "color": [r, g, b]')
    known = [entry["value"] for entry in named]
    extra = [color for color in found if color not in known]
    assumed = [f"masks: colours, named by {origin}"]
    if extra:
        assumed.append(f"ignored: {len(extra)} further colours of the masks, {extra[0]} among them")
    classes = [{"name": e["name"], "color": e.get("color", e["value"]), "value": e["value"]} for e in named]
    return Spelling(classes, extra, assumed)


def _by_index(values: list[int], named: list[dict[str, Any]], origin: str, palette: Palette) -> Spelling:
    plain = [value for value in values if value != IGNORE]
    shown = f"masks: values {_ranges(values)}"
    assumed: list[str] = []
    if named and all("value" in entry for entry in named):
        spelt = [entry["value"] for entry in named]
        ignore = [value for value in values if value not in spelt]
        assumed.append(f"{shown}, named by {origin}" + (f"; {_ranges(ignore)} ignored" if ignore else ""))
    elif named:
        spelt, ignore = _match(plain, len(named), values, origin)
        assumed.append(f"{shown}; {origin} names {_ranges(spelt)} in this order, ignored: {_ranges(ignore)}")
    elif values == [0, IGNORE]:
        spelt, ignore = values, []
        assumed.append(f"{shown}: two classes, 255 is one of them (docs/own-data.md, Masks: ignore)")
    else:
        spelt, ignore = plain, [IGNORE]
        assumed.append(f"{shown}: each a class but 255, which is ignored")
    names = [entry["name"] for entry in named] or [f"class_{value}" for value in spelt]
    colors = [list(entry["color"]) if "color" in entry else None for entry in named] or [None] * len(spelt)
    fallback = _colors(spelt, palette)
    classes = [
        {"name": name, "color": color or other, "value": value}
        for name, color, other, value in zip(names, colors, fallback, spelt, strict=True)
    ]
    return Spelling(classes, ignore, assumed)


def _match(plain: list[int], number: int, values: list[int], origin: str) -> tuple[list[int], list[int]]:
    """(values of `number` named classes, values to ignore)."""
    if values == [0, IGNORE] and number == 2:
        return values, []
    highest = max(plain, default=0)
    if highest < number:
        return list(range(number)), [IGNORE]
    if highest == number:  # 1…n, 0 is something else
        return list(range(1, number + 1)), [0, *([IGNORE] if IGNORE in values else [])]
    for those in (plain, values):
        if len(those) == number:
            return those, [IGNORE] if IGNORE not in those else []
    raise UserError(
        f"{origin} names {number} classes, but the masks hold the values {_ranges(values)}: give each value"
    )


def _colors(values: list[int], palette: Palette) -> list[list[int]]:
    """As the masks' own palette shows them, else colours that are easily told apart."""
    if palette and all(value < len(palette) for value in values):
        own = [list(palette[value]) for value in values]
        if len({tuple(color) for color in own}) == len(own) and not all(len(set(color)) == 1 for color in own):
            return own
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
