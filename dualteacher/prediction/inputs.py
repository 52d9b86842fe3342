"""Collect the images and videos to predict, and name their outputs."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from dualteacher.data.formats import file_kinds, folder_files
from dualteacher.data.formats.file_kinds import VIDEOS, is_image
from dualteacher.data.formats.folder_roles import not_photos
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError
from dualteacher.system.os_errors import broken_link


@dataclass(frozen=True)
class Input:
    """An image or a video. name: of its outputs, relative to the output folder, without extension."""

    file: Path
    name: str

    @property
    def video(self) -> bool:
        return self.file.suffix.lower() in VIDEOS


def collect(given: Sequence[Path], output: Path) -> list[Input]:
    """List each image and video once, in the order given; UserError if there are none, or if names clash.

    Names are paths relative to the given folder, or to the folders before the first `*`, `?` or `[` of a pattern.
    Extensions are dropped unless two names would become equal. Files in the output folder are skipped.
    """
    own = Path(os.path.realpath(output))  # Path.resolve raises on a link that leads back to itself
    jobs: dict[Path, Input] = {}
    for path in given:
        for job in _found(path):
            place = Path(os.path.realpath(job.file))
            if own not in place.parents:
                jobs.setdefault(place, job)
    if not jobs:
        raise UserError(f"{', '.join(map(str, given))}: no images found")
    return _named(list(jobs.values()))


def _found(path: Path) -> Iterator[Input]:
    if path.is_dir():
        yield from _below(path, "")
    elif path.exists():
        yield Input(path, path.name)
    elif glob.has_magic(str(path)):
        yield from _matching(path)
    else:
        raise UserError(broken_link(path) or f"{path}: no such file or folder")


def _below(folder: Path, prefix: str) -> Iterator[Input]:
    """All images below a folder, except hidden ones; names the kinds of files that are left out."""
    names = folder_files.image_files(folder)
    aside = not_photos(names)
    if aside:
        logger.info("%s: not predicted: %d files that look like masks or overlays of the photos, for example %s",
                    folder, len(aside), aside[0])  # fmt: skip
    unused = folder_files.unused(folder, names)
    for line in file_kinds.described({kind: unused[kind] for kind in file_kinds.ADVICE if kind in unused}):
        logger.info("%s: not predicted: %s", folder, line)
    for name in sorted({*names} - {*aside}):
        yield Input(folder / name, str(PurePosixPath(prefix) / name))


def _matching(pattern: Path) -> Iterator[Input]:
    """The images, videos and folders that a pattern matches."""
    parts = pattern.parts
    base = Path(*parts[: next(number for number, part in enumerate(parts) if glob.has_magic(part))])
    for match in map(Path, sorted(glob.glob(str(pattern), recursive=True))):  # noqa: PTH207 - Path.glob takes no absolute patterns
        name = os.path.relpath(match, base)
        if match.is_dir():
            yield from _below(match, name)
        elif is_image(match) or match.suffix.lower() in VIDEOS:
            yield Input(match, name)


def _named(jobs: list[Input]) -> list[Input]:
    """Drop extensions except where names would clash; UserError if they clash anyway."""
    short = [str(PurePosixPath(job.name).with_suffix("")) for job in jobs]
    while clashing := {name for name, number in Counter(short).items() if number > 1}:
        names = [job.name if name in clashing else name for job, name in zip(jobs, short, strict=True)]
        if names == short:
            name = min(clashing)
            files = [str(job.file) for job, other in zip(jobs, short, strict=True) if other == name]
            raise UserError(
                f"{len(files)} images have the output name {name} ({', '.join(files[:3])}); use different --output"
                " folders, or give the folder that contains them all"
            )
        short = names
    return [replace(job, name=name) for job, name in zip(jobs, short, strict=True)]
