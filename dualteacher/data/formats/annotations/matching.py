"""Map images to the names that an annotation tool gives them: tools drop, replace or prepend folders and prefixes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # Label Studio's prefix for uploaded files


def match(names: Sequence[str], listed: Sequence[str]) -> dict[str, str]:
    """Name → listed name.

    Rules are tried from strict to loose; a rule counts only where it gives exactly one match. Ambiguous images are
    left out.
    """
    found: dict[str, str] = {}
    rules: list[tuple[Callable[[str], str], Callable[[str], list[str]]]] = [
        (str, lambda other: [other]),
        (str, _ends),
        (lambda name: PurePosixPath(name).name, lambda other: [PurePosixPath(other).name]),
        (
            lambda name: PurePosixPath(name).name.replace(" ", "_"),
            lambda other: [UPLOAD.sub("", PurePosixPath(other).name)],
        ),
        (_stem, lambda other: [_stem(other)]),
    ]
    for key, keys in rules:
        taken = set(found.values())
        by_key: dict[str, list[str]] = {}
        for other in listed:
            if other not in taken:
                for text in keys(other):
                    by_key.setdefault(text, []).append(other)
        fits = {name: by_key.get(key(name), []) for name in names if name not in found}
        times = Counter(other for others in fits.values() for other in others)
        found |= {name: others[0] for name, others in fits.items() if len(others) == 1 and times[others[0]] == 1}
    return found


def _stem(path: str) -> str:
    """A name that survives a conversion (a.png for a.JPG) or Windows."""
    return PurePosixPath(path).stem.lower()


def _ends(path: str) -> list[str]:
    """«b/c» and «c» for a/b/c."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(1, len(parts))]
