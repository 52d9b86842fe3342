"""Guess from the files' headers which bands the images have, and whether their values need a range (`init`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dualteacher.data.formats import tiff
from dualteacher.data.formats.errors import Unreadable

PNG, BIT_DEPTH = b"\x89PNG", 24  # offset of the IHDR chunk's bit depth


class Kind(NamedTuple):
    """What a file stores. bands: without transparency."""

    bands: int
    rgb: bool
    deep: bool  # values other than 0 … 255
    apart: bool = False  # each band is a picture of its own


def guess(folder: Path, names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """(settings that differ from the defaults, the assumptions behind them) for a sample of images."""
    kinds = [kind for name in names if (kind := _kind(folder / name)) is not None]
    found: dict[str, Any] = {}
    told: list[str] = []
    counts = sorted({kind.bands for kind in kinds})
    if len(counts) == 1 and (counts[0] != 3 or all(kind.apart for kind in kinds)):
        rgb = all(kind.rgb for kind in kinds) and counts[0] > 3
        found |= {"bands": list(range(1, counts[0] + 1)), "rgb": rgb}
        what = "the first three as red, green and blue" if rgb else "none of them taken for a colour"
        told.append(f"bands: {counts[0]} in each image, all of them are the network's input, {what}")
    elif len(counts) > 1 and counts[-1] > 3:
        told.append(
            f"bands: {', '.join(map(str, counts))}, differing by image: the first three of each are read as RGB"
        )
    if deep := sum(kind.deep for kind in kinds):
        found["range"] = "percentile"
        told.append(
            f"values: {deep} of {len(kinds)} images hold more than 8 bits: `range: percentile` scales the 1st to the"
            " 99th percentile of the training images' values to 8 bits; `depth: 16` keeps finer steps"
        )
    return found, told


def _kind(file: Path) -> Kind | None:
    """None if the file is no image, or damaged; other formats than TIFF and PNG hold RGB or grey of 8 bits."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(BIT_DEPTH + 1)
        if head.startswith(PNG):
            return Kind(3, True, head[BIT_DEPTH] == 16)
        page = tiff.open_page(file)
    except (OSError, Unreadable, IndexError):
        return None
    if page is None:
        return Kind(3, True, False)
    if page.further:
        return Kind(1 + len(page.further), False, page.is_deep, True)
    bands = 3 if page.colors is not None else page.samples - page.alpha
    return Kind(3 if bands == 1 else bands, page.photometric in (tiff.RGB, tiff.YCBCR), page.is_deep)
