"""How the names of masks derive from those of their images: prefixes and suffixes around a common part."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import PurePosixPath

from dualteacher.data.formats.folder_roles import SUFFIXES

IMAGE_SUFFIXES = ("_0000", "_sat", "_img", "_image", "_rgb")  # _0000: nnU-Net's first channel
LOOKED_AT = 200  # masks


@dataclass(frozen=True)
class Affixes:
    """What stands before and after the common part of the names of an image and its mask, without file extensions."""

    image_prefix: str = ""
    image_suffix: str = ""
    mask_prefix: str = ""
    mask_suffix: str = ""

    def core(self, key: str) -> str | None:
        """The common part of an image's key (a path without extension); None if the key lacks an affix."""
        return _stripped(key, self.image_prefix, self.image_suffix)

    def mask(self, core: str) -> str:
        """The key of the mask."""
        path = PurePosixPath(core)
        return str(path.with_name(f"{self.mask_prefix}{path.name}{self.mask_suffix}"))

    def is_mask(self, key: str) -> bool:
        return bool(_stripped(key, self.mask_prefix, self.mask_suffix))


def _stripped(key: str, prefix: str, suffix: str) -> str | None:
    folder, _, name = key.rpartition("/")
    if not (name.startswith(prefix) and name.endswith(suffix) and len(name) > len(prefix) + len(suffix)):
        return None
    name = name.removeprefix(prefix)
    return "/".join(filter(None, (folder, name[: len(name) - len(suffix)])))


def find(images: Sequence[str], masks: Sequence[str]) -> tuple[Affixes, int] | None:
    """The affixes that pair most masks with an image, and how many of the masks looked at; None if they pair none.

    Both are paths with extensions, relative to their folders.
    """
    looked = sorted(masks)[:LOOKED_AT]
    keys = [_key(name) for name in images]
    present = set(images)
    mask_keys = [_without_image_extension(_key(name), present) for name in looked]
    best: tuple[Affixes, int] | None = None
    for image_affix, mask_prefix in product(_image_affixes(keys), _prefixes(mask_keys)):
        cores = {core for key in keys if (core := _stripped(key, *image_affix))}
        suffixes: Counter[str] = Counter()
        for key in mask_keys:
            core = _stripped(key, mask_prefix, "")
            end = next((end for end in range(len(core or ""), 0, -1) if core and core[:end] in cores), None)
            if core and end and "/" not in core[end:]:
                suffixes[core[end:]] += 1
        if suffixes:
            suffix, number = suffixes.most_common(1)[0]
            if best is None or number > best[1]:
                best = Affixes(*image_affix, mask_prefix, suffix), number
    return best


def find_inside(names: Sequence[str]) -> tuple[Affixes, int] | None:
    """`find` for images and masks in the same folders."""
    present = set(names)
    keys = {_without_image_extension(_key(name), present) for name in names}
    counts: Counter[Affixes] = Counter()
    for image_suffix, suffix in product(("", *IMAGE_SUFFIXES), SUFFIXES):
        affixes = Affixes(image_suffix=image_suffix, mask_suffix=suffix)
        counts[affixes] = sum(affixes.mask(core) in keys for key in keys if (core := affixes.core(key)))
    affixes, number = counts.most_common(1)[0]
    return (affixes, number) if number else None


def _key(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _without_image_extension(key: str, images: set[str]) -> str:
    """`a.jpg` and `a.jpg_mask` become `a` and `a_mask` if there is an image `a.jpg`."""
    found = re.fullmatch(r"(.*)(\.\w{2,4}?)([_-][^/.]*)?", key)
    return found[1] + (found[3] or "") if found and found[1] + found[2] in images else key


def _image_affixes(keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(prefix, suffix) of images worth trying, none first."""
    names = [PurePosixPath(key).name for key in keys]
    common = os.path.commonprefix([name[::-1] for name in names])[::-1] if len(names) > 1 else ""  # noqa: RUF071
    found = re.search(r"[_\-. ].*", common)
    known = [suffix for suffix in IMAGE_SUFFIXES if any(name.endswith(suffix) for name in names)]
    for suffix in dict.fromkeys(["", *([found[0]] if found else []), *known]):
        for prefix in _prefixes(keys):
            yield prefix, suffix


def _prefixes(keys: Sequence[str]) -> list[str]:
    names = [PurePosixPath(key).name for key in keys]
    common = os.path.commonprefix(names) if len(names) > 1 else ""  # noqa: RUF071
    found = re.search(r".*[_\-. ]", common) or re.match(r"[A-Za-z]+", common)
    return ["", *([found[0]] if found else [])]
