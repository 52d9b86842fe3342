"""What can be wrong with images and masks, looked for on every one of them before anything is trained.

Each file is decoded once (`inspect`, in any thread); `Survey` adds up what the images show together:
duplicates, class balance, a table. Errors stop the prepare stage, warnings do not.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, Protocol

import numpy as np
from PIL import Image

from dualteacher.core.labels import IGNORE
from dualteacher.data.pack import ClassInfo, Sample, decode_image, decode_mask
from dualteacher.system import console, parallel

SPLITS = ("train", "val")
NAMES = {"train": "training", "val": "validation"}
MOSTLY = 0.5  # of all pixels
FEW = 5  # images with masks; fewer judge a network by luck
ALIKE = 5  # warnings of one kind that are spelt out
BYTES_A_PIXEL = 16  # of an image and its mask while they are decoded, encoded and judged
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
MEMORY = parallel.Budget(3 << 30)  # bytes, over all threads


class Finding(NamedTuple):
    """Something wrong: with which file or image, and what to do. Warnings of one `kind` are cut short."""

    level: Literal["error", "warning"]
    where: str
    text: str
    kind: str = ""

    def __str__(self) -> str:
        return f"{printable(self.where)}: {self.text}"


@dataclass(frozen=True)
class Checked:
    """An image and its mask after their only decoding.

    sample: None where it cannot be used. pixels: int64 (256,), pixels of each mask value. digest: of the
    decoded image. unlisted: pixels of mask values that the class table does not know, as they stand in the file.
    """

    where: str
    sample: Sample | None
    findings: tuple[Finding, ...] = ()
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    digest: bytes = b""
    unlisted: Mapping[str, int] = field(default_factory=dict)


class Content(Protocol):
    """What is checked; sources.Content is one."""

    def classes(self) -> list[ClassInfo]: ...

    def ids(self, split: Literal["train", "val"]) -> list[str]: ...

    def samples(self, split: Literal["train", "val"]) -> Iterator[Sample]: ...


def leak_level(dataset: object) -> Literal["error", "warning"]:
    """A picture in both splits is a mistake in your own folder; a published split is what it is."""
    return "error" if getattr(dataset, "source", None) == "folder" else "warning"


def beforehand(content: Content) -> list[Finding]:
    """What a content finds without opening a file, if it looks."""
    return content.findings() if hasattr(content, "findings") else []


def run(content: Content, split: Literal["train", "val"], description: str) -> Iterator[Checked]:
    """Check a split's images on all cores, in order, with progress.

    A content with `jobs(split)` decodes its own files (`folder` has to read them anyway); of the others,
    the encoded samples are decoded.
    """
    jobs: Iterable[Callable[[], Checked]]
    if hasattr(content, "jobs"):
        jobs = content.jobs(split)
    else:
        number = len(content.classes())
        jobs = (partial(inspect, sample, number) for sample in content.samples(split))
    return console.progress(parallel.ordered(jobs), description, len(content.ids(split)), "image")


def inspect(sample: Sample, num_classes: int) -> Checked:
    """Decode an encoded image and its mask as training will, and judge them."""
    where = sample.image_id
    with MEMORY.hold(sample.height * sample.width * BYTES_A_PIXEL):
        try:
            pixels = decode_image(sample.image)
        except DAMAGE as error:
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
        except DAMAGE as error:
            problem = Finding("error", where, f"the mask cannot be decoded ({error})")
            return Checked(where, None, (*found, problem), digest=digest)
        known = (mask < num_classes) | (mask == IGNORE)
        unlisted = {str(value): number for value, number in counted(mask[~known]).items()}
        found += judge(where, mask, pixels, unlisted, f"0…{num_classes - 1}, {IGNORE}")
        counts = np.bincount(mask[known].ravel(), minlength=256).astype(np.int64)
    return Checked(where, sample, tuple(found), counts, digest, unlisted)


def judge(
    where: str, mask: np.ndarray, pixels: np.ndarray, unlisted: Mapping[str, int], allowed: str
) -> Iterator[Finding]:
    """What is wrong with a decoded mask (H, W) of the image `pixels` (H, W, 3)."""
    if mask.shape != pixels.shape[:2]:
        yield Finding("error", where, f"the mask is {_size(mask)}, the image {_size(pixels)}")
    if unlisted:
        number, values = sum(unlisted.values()), list(unlisted)
        shown = ", ".join(values[:8]) + (f" and {len(values) - 8} more" if len(values) > 8 else "")
        yield Finding("error", where, f"{number} pixels with values [{shown}], allowed {allowed}")
    elif mask.size and (mask == IGNORE).all():
        yield Finding("warning", where, "every pixel of the mask is ignored: it teaches nothing", "ignored")


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[0]}×{pixels.shape[1]}"


def digest_of(pixels: np.ndarray) -> bytes:
    """Names an image by what it shows, not by how it is encoded."""
    hashed = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16)
    hashed.update(repr(pixels.shape).encode())
    return hashed.digest()


def counted(values: np.ndarray) -> dict[int, int]:
    """Number of each value, sorted by value."""
    return {int(v): int(n) for v, n in zip(*np.unique(values, return_counts=True), strict=True)}


def printable(text: str) -> str:
    """In one line, whatever a file is called."""
    return text if text.isprintable() else text.encode("unicode_escape", "surrogatepass").decode()


class Survey:
    """Adds up checked images. Add the validation images first: then a training image that repeats one is known.

    leak: what it is when an image is in both splits.
    """

    def __init__(self, classes: Sequence[ClassInfo], leak: Literal["error", "warning"]) -> None:
        self.classes, self.leak = classes, leak
        self.findings: list[Finding] = []
        self.images = dict.fromkeys(SPLITS, 0)
        self.masks = dict.fromkeys(SPLITS, 0)
        self.pixels = {split: np.zeros(256, np.int64) for split in SPLITS}
        self.shown = {split: np.zeros(256, np.int64) for split in SPLITS}  # images that show a value
        self._sizes: list[tuple[int, int]] = []
        self._first: dict[str, dict[bytes, str]] = {split: {} for split in SPLITS}
        self._unlisted: set[str] = set()  # mask values
        self._zero = False  # whether a mask holds one

    def add(self, split: str, checked: Checked) -> list[Finding]:
        """Count an image; gives the errors for which it cannot be used."""
        found = [*checked.findings, *self._duplicates(split, checked)]
        self.findings += found
        self._unlisted |= set(checked.unlisted)
        self._zero |= bool(checked.pixels[0])
        errors = [finding for finding in found if finding.level == "error"]
        if checked.sample is not None and not errors:
            self.images[split] += 1
            self.masks[split] += checked.sample.mask is not None
            self.pixels[split] += checked.pixels
            self.shown[split] += checked.pixels > 0
            self._sizes.append((checked.sample.height, checked.sample.width))
        return errors

    def _duplicates(self, split: str, checked: Checked) -> Iterator[Finding]:
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
        """What is wrong with all images together; call it once, at the end."""
        found = []
        n = len(self.classes)
        if set(self._unlisted) == {str(n)} and self._zero:
            text = (
                f"masks hold 0…{n} with {n} classes: if 0 means «other» and the classes count from 1 (as in ADE20K),"
                f" every label is off by one; give the classes the values 1…{n} and ignore 0"
            )
            found.append(Finding("error", "all masks", text))
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
                text = f"only {self.masks[split]} with a mask: scores are luck; label more, or hold a larger share back"
                yield Finding("warning", NAMES[split], text)
            ignored = self.pixels[split][IGNORE] / max(1, self.pixels[split].sum())
            if ignored > MOSTLY:
                text = f"{ignored:.0%} of the masks' pixels are ignored: is one of the ignored values a class?"
                yield Finding("warning", NAMES[split], text)
            for index, info in enumerate(self.classes):
                if not self.pixels[split][index]:
                    then = "it cannot be learned" if split == "train" else "its score is not defined"
                    yield Finding("warning", printable(info.name), f"no {NAMES[split]} mask shows it: {then}", "absent")

    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]

    def lines(self) -> Iterator[str]:
        """One line a finding, errors first; warnings of one kind beyond the first few are counted."""
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
                yield f"warning  … and {number - ALIKE} more like «{example}»"

    def table(self) -> str:
        """Images, sizes and the classes' shares in words and columns."""
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
