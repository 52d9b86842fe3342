"""Checks of every image and mask before training, for `prepare` and `check-data`.

Each file is decoded once (`inspect`, in any thread). `Survey` collects the results and finds duplicates, missing
classes and the like. Errors stop the prepare stage, warnings do not.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from dualteacher.core.labels import IGNORE
from dualteacher.data import likeness
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.formats.palettes import Color, Palettes
from dualteacher.data.likeness import Picture
from dualteacher.data.pack import DECODE_ERRORS, Sample, decode_image, decode_mask
from dualteacher.data.sources import SPLITS, Content, Split
from dualteacher.system import console, parallel

Level = Literal["error", "warning"]

NAMES: dict[Split, str] = {"train": "training", "val": "validation"}
MOSTLY = 0.5  # share of ignored pixels above which to warn
FEW = 5  # validation images with masks; scores on fewer are noise
ALIKE = 5  # warnings of one kind to list
BYTES_PER_PIXEL = 16  # memory to decode, encode and check an image and its mask
MEMORY = parallel.Budget(3 << 30)  # bytes, over all threads


class Finding(NamedTuple):
    """A problem with one file or image. Only the first few warnings of a `kind` are listed."""

    level: Level
    where: str
    text: str
    kind: str = ""
    class_index: int | None = None  # of the class that `where` names

    @property
    def stable(self) -> str:
        """`where`, which a class's new name does not change."""
        return self.where if self.class_index is None else f"class {self.class_index}"

    def __str__(self) -> str:
        return f"{printable(self.where)}: {self.text}"


@dataclass(frozen=True)
class Checked:
    """The result of decoding and checking an image and its mask.

    sample: None if it cannot be used. pixels: int64 (256,), number of pixels of each mask value. digest: of the decoded
    image. unlisted: number of pixels of each mask value that is not in the class table, keyed by the file's value.
    picture: to find near-duplicates.
    palette: (mask file, colours of the indices it uses), if indices are read from a file with a palette.
    """

    where: str
    sample: Sample | None
    findings: tuple[Finding, ...] = ()
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    digest: bytes = b""
    unlisted: Mapping[str, int] = field(default_factory=dict)
    palette: tuple[str, Mapping[int, Color]] | None = None
    picture: Picture | None = None


def leak_level(dataset: object) -> Level:
    """Level of an image found in both splits: an error in the user's folder; published splits cannot be changed."""
    return "error" if getattr(dataset, "source", None) == "folder" else "warning"


def survey_of(content: Content, classes: Sequence[ClassInfo], dataset: object) -> Survey:
    """An empty survey, with the content's own findings if it has any (see `sources.Content`)."""
    survey = Survey(classes, leak_level(dataset))
    survey.own_validation = getattr(getattr(dataset, "validation", None), "images", None) is not None
    survey.findings += content.findings() if hasattr(content, "findings") else []
    return survey


def run(content: Content, split: Split, num_classes: int, description: str) -> Iterator[Checked]:
    """Check a split's images on all cores, in order, with progress.

    A content with `jobs(split)` decodes its own files; otherwise, the encoded samples are decoded here.
    """
    jobs: Iterable[Callable[[], Checked]]
    if hasattr(content, "jobs"):
        jobs = content.jobs(split)
    else:
        jobs = (partial(inspect, sample, num_classes) for sample in content.samples(split))
    return console.progress(parallel.ordered(jobs), description, len(content.ids(split)), "image")


def inspect(sample: Sample, num_classes: int) -> Checked:
    """Decode and check an image and its mask, decoding them as training does."""
    where = sample.image_id
    with MEMORY.hold(sample.height * sample.width * BYTES_PER_PIXEL):
        try:
            pixels = decode_image(sample.image)
        except DECODE_ERRORS as error:
            return Checked(where, None, (Finding("error", where, f"the image cannot be decoded ({error})"),))
        found: list[Finding] = []
        if pixels.shape[:2] != (sample.height, sample.width):
            expected = f"{sample.height}×{sample.width}"
            found.append(Finding("error", where, f"the image is {_size(pixels)}, not {expected} as stated"))
        digest = digest_of(pixels)
        if sample.mask is None:
            return Checked(where, sample, tuple(found), digest=digest)
        try:
            mask = decode_mask(sample.mask)
        except DECODE_ERRORS as error:
            problem = Finding("error", where, f"the mask cannot be decoded ({error})")
            return Checked(where, None, (*found, problem), digest=digest)
        known = (mask < num_classes) | (mask == IGNORE)
        unlisted = {str(value): number for value, number in counted(mask[~known]).items()}
        found += check_mask(where, mask, pixels, unlisted, f"0…{num_classes - 1}, {IGNORE}")
        counts = np.bincount(mask[known].ravel(), minlength=256).astype(np.int64)
    return Checked(where, sample, tuple(found), counts, digest, unlisted)


def check_mask(
    where: str, mask: np.ndarray, pixels: np.ndarray, unlisted: Mapping[str, int], allowed: str
) -> Iterator[Finding]:
    """Problems of a decoded mask (H, W) for the image `pixels` (H, W, 3)."""
    if mask.shape != pixels.shape[:2]:
        yield Finding("error", where, f"the mask is {_size(mask)}, the image {_size(pixels)}")
    if unlisted:
        number, values = sum(unlisted.values()), list(unlisted)
        shown = ", ".join(values[:8]) + (f" and {len(values) - 8} more" if len(values) > 8 else "")
        yield Finding("error", where, f"{number} pixels with values [{shown}], allowed {allowed}")
    elif mask.size and (mask == IGNORE).all():
        yield Finding("warning", where, "every pixel of the mask is ignored, so training gains nothing", "ignored")


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[0]}×{pixels.shape[1]}"


def digest_of(pixels: np.ndarray) -> bytes:
    """Hash of the decoded pixels and their shape, so the encoding does not matter."""
    hashed = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16)
    hashed.update(repr(pixels.shape).encode())
    return hashed.digest()


def counted(values: np.ndarray) -> dict[int, int]:
    """Number of each value, sorted by value."""
    return {int(v): int(n) for v, n in zip(*np.unique(values, return_counts=True), strict=True)}


def printable(text: str) -> str:
    """`text` on one line, with unprintable characters escaped."""
    return text if text.isprintable() else text.encode("unicode_escape", "surrogatepass").decode()


class Survey:
    """Statistics and findings over all images.

    Add the validation images first, so that a training image that repeats one is noticed.
    leak: level of an image found in both splits.
    """

    def __init__(self, classes: Sequence[ClassInfo], leak: Level) -> None:
        self.classes, self.leak = classes, leak
        self.findings: list[Finding] = []
        self.images: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self.masks: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self.pixels = {split: np.zeros(256, np.int64) for split in SPLITS}
        self.shown = {split: np.zeros(256, np.int64) for split in SPLITS}  # number of images with each value
        self._sizes: list[tuple[int, int]] = []
        self._first: dict[Split, dict[bytes, str]] = {split: {} for split in SPLITS}
        self._unlisted: set[str] = set()  # mask values
        self._zero = False  # whether any mask has the value 0
        self._palettes = Palettes()
        self.pictures = {split: list[Picture]() for split in SPLITS}
        self.own_validation = False  # whether validation has a folder of its own

    def add(self, split: Split, checked: Checked) -> list[Finding]:
        """Count an image; returns the errors that make it unusable."""
        found = [*checked.findings, *self._duplicates(split, checked)]
        self.findings += found
        self._unlisted |= set(checked.unlisted)
        self._zero |= bool(checked.pixels[0])
        if checked.palette is not None:
            self._palettes.add(printable(checked.palette[0]), checked.palette[1])
        errors = [finding for finding in found if finding.level == "error"]
        if checked.sample is not None and not errors:
            self.images[split] += 1
            self.masks[split] += checked.sample.mask is not None
            self.pixels[split] += checked.pixels
            self.shown[split] += checked.pixels > 0
            self._sizes.append((checked.sample.height, checked.sample.width))
            if checked.picture is not None:
                self.pictures[split].append(checked.picture)
        return errors

    def _duplicates(self, split: Split, checked: Checked) -> Iterator[Finding]:
        if not checked.digest:
            return
        first = self._first[split].setdefault(checked.digest, checked.where)
        other = self._first["val"].get(checked.digest) if split == "train" else None
        if other is not None:
            text = f"the same picture as {printable(other)} in validation: scores would be too good; remove one"
            yield Finding(self.leak, checked.where, text, "leak")
        elif first != checked.where:
            yield Finding("warning", checked.where, f"the same picture as {printable(first)}", "repeated")

    def conclude(self) -> list[Finding]:
        """Problems of the dataset as a whole; call it once, after the last image."""
        found = []
        n = len(self.classes)
        if set(self._unlisted) == {str(n)} and self._zero:
            text = (
                f"masks hold 0…{n} with {n} classes: if 0 means 'other' and classes count from 1 (as in ADE20K), every"
                f" label is off by one; give the classes the values 1…{n} and ignore 0"
            )
            found.append(Finding("error", "all masks", text))
        if conflict := self._palettes.conflict():
            text = (
                f"palettes differ: {conflict}; give the classes colours as values ([r, g, b]; `init` does), or, if the"
                " indices are right, save the masks without palettes"
            )
            found.append(Finding("error", "all masks", text))
        for kind, where, text in likeness.leaks(self.pictures["train"], self.pictures["val"], self.own_validation):
            found.append(Finding("warning", where, text, kind))
        found += self._gaps()
        self.findings += found
        return found

    def _gaps(self) -> Iterator[Finding]:
        for split in SPLITS:
            if not self.masks[split]:
                what = "with a mask " if self.images[split] else ""
                yield Finding("error", NAMES[split], f"no usable {NAMES[split]} image {what}is left")
                continue
            if split == "val" and self.masks[split] < FEW:
                text = f"only {self.masks[split]} images with masks: scores are noise; label more, or raise the share"
                yield Finding("warning", NAMES[split], text)
            ignored = self.pixels[split][IGNORE] / max(1, self.pixels[split].sum())
            if ignored > MOSTLY:
                text = f"{ignored:.0%} of the masks' pixels are ignored: is one of the ignored values a class?"
                yield Finding("warning", NAMES[split], text)
            for index, info in enumerate(self.classes):
                if not self.pixels[split][index]:
                    then = "it cannot be learned" if split == "train" else "its score is undefined"
                    text = f"no {NAMES[split]} mask shows it: {then}"
                    yield Finding("warning", printable(info.name), text, "absent", index)

    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]

    def lines(self) -> Iterator[str]:
        """One line per finding, errors first; for each kind of warning the first few, then the number of the rest."""
        for finding in self.errors():
            yield f"error    {finding}"
        kinds: Counter[str] = Counter()
        for finding in self.findings:
            if finding.level == "warning":
                kinds[finding.kind] += 1
                if not finding.kind or kinds[finding.kind] <= ALIKE:
                    yield f"warning  {finding}"
        for kind, number in kinds.items():
            if kind and number > ALIKE:
                example = next(f for f in self.findings if f.level == "warning" and f.kind == kind)
                yield f"warning  … and {number - ALIKE} more like '{example}'"

    def table(self) -> str:
        """Number and sizes of images, then a table of the classes' shares."""
        parts = []
        for split in SPLITS:
            parts.append(f"{self.images[split]} {NAMES[split]} images ({self.masks[split]} with masks)")
        if self._sizes:
            (low_h, low_w), (high_h, high_w) = np.min(self._sizes, 0), np.max(self._sizes, 0)
            sizes = f"{low_h}×{low_w}" if (low_h, low_w) == (high_h, high_w) else f"{low_h}…{high_h}×{low_w}…{high_w}"
            parts.append(f"height×width {sizes} pixels")
        names = [printable(info.name) for info in self.classes] + ["ignored"]
        wide = max(len("class"), *map(len, names))
        columns = "".join(f"{NAMES[split] + ': images':>20}{'pixels':>9}" for split in SPLITS)
        rows = ["; ".join(parts), f"{'class':<{wide}}{columns}"]
        for name, index in zip(names, [*range(len(self.classes)), IGNORE], strict=True):
            cells = ""
            for split in SPLITS:
                share = self.pixels[split][index] / max(self.pixels[split].sum(), 1)
                cells += f"{self.shown[split][index]:>20}{share:>9.1%}"
            rows.append(f"{name:<{wide}}{cells}")
        return "\n".join(rows)
