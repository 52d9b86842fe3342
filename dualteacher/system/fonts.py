"""Fonts for text in any script: DejaVu Sans, which Matplotlib ships, and installed ones for what it lacks.

A character that no font has is written as its escape sequence, such as \\u80cc.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import ImageFont

from dualteacher.system.console import logger

DEFAULT = "DejaVu Sans"
UNFIT = ("emoji", "last resort", "lastresort", "color", "symbol", "barcode")  # in names of fonts that draw no names


def lacking(text: str) -> list[str]:
    """The characters of `text` that DejaVu Sans does not have, sorted."""
    has = _has(default())
    return sorted(character for character in {*text} if not (has(character) or character.isspace()))


def family(text: str) -> list[str]:
    """Matplotlib's font families that together show `text`, as far as fonts are installed."""
    return [DEFAULT, *(name for name, _ in _fallbacks("".join(lacking(text))))]


def printable(text: str) -> str:
    """`text` with an escape sequence for every character that no font has."""
    rare = "".join(lacking(text))
    return _escaped(text, {*_unknown(rare)}) if rare else text


def choose(text: str, size: int, bold: bool = False) -> tuple[ImageFont.FreeTypeFont, str]:
    """(font for Pillow, `text` as that font can show it); Pillow draws a text in one font."""
    rare = "".join(lacking(text))
    path, missing = default(bold), {*rare}
    _ = rare and _unknown(rare)  # warns
    for _, other in _fallbacks(rare):
        lost = {character for character in text if not (_has(other)(character) or character.isspace())}
        if len(lost) < len(missing):
            path, missing = other, lost
    return ImageFont.truetype(str(path), size), _escaped(text, missing)


def default(bold: bool = False) -> Path:
    """The file of DejaVu Sans, the same on every machine."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{'-Bold' if bold else ''}.ttf"


def _escaped(text: str, missing: set[str]) -> str:
    shown = (_escape(character) if character in missing else character for character in text)
    return "".join(shown)


def _escape(character: str) -> str:
    """Nothing for characters that only format others."""
    invisible = unicodedata.category(character) in ("Cf", "Mn")
    return "" if invisible else character.encode("ascii", "backslashreplace").decode()


@functools.cache
def _unknown(rare: str) -> str:
    """The characters that no installed font has."""
    paths = [path for _, path in _fallbacks(rare)]
    missing = "".join(character for character in rare if not any(_has(path)(character) for path in paths))
    if any(map(_escape, missing)):
        _warn()
    return missing


@functools.cache  # once is enough
def _warn() -> None:
    logger.warning(
        "no installed font has some characters of the names: pictures show them as \\u…; for Chinese, Japanese and"
        " Korean install fonts-noto-cjk (Debian, Ubuntu), google-noto-sans-cjk-fonts (Fedora)"
    )


@functools.cache
def _fallbacks(rare: str) -> list[tuple[str, Path]]:
    """(family, file) of installed fonts, each with characters that those before it lack, the most first."""
    found: list[tuple[str, Path]] = []
    candidates = list(_installed()) if rare else []
    missing = {*rare}
    while missing and candidates:
        gains = [sum(map(_has(path), missing)) for _, path in candidates]
        best = max(range(len(candidates)), key=lambda i: gains[i])
        if not gains[best]:
            break
        found.append(candidates[best])
        missing = {character for character in missing if not _has(candidates[best][1])(character)}
    return found


def _installed() -> Iterator[tuple[str, Path]]:
    """(family, file) of the upright fonts of regular weight, sans-serif ones first."""
    from matplotlib import font_manager

    entries = {(entry.name, entry.fname): entry for entry in font_manager.fontManager.ttflist}
    regular = [
        name
        for name, entry in entries.items()
        if entry.style == "normal"
        and str(entry.weight) in ("400", "normal", "regular", "book", "medium", "500")
        and not any(word in entry.name.lower() for word in UNFIT)
    ]
    yield from (
        (name, Path(path))
        for name, path in sorted(regular, key=lambda item: (not any(w in item[0] for w in ("Sans", "Gothic")), item))
    )


@functools.cache
def _has(path: Path) -> Callable[[str], bool]:
    """Whether the font has a character; never, if the file cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(str(path))
    except (OSError, RuntimeError):
        return lambda character: False
    return lambda character: bool(font.get_char_index(ord(character)))
