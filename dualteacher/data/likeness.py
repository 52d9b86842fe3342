"""Find near-duplicates: pictures of one scene in training and in validation, which make scores too good.

Compared are difference hashes (dHash): of a picture shrunk to 16×17 grey pixels, whether each pixel is brighter (1),
darker (−1) or as bright (0) as its left neighbour. They survive compression, scaling, and changes of brightness.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 16
GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
EQUAL = 1.0  # grey levels; a smaller difference is 0
LEAST = SIDE * SIDE // 8  # differences that a picture must have, else it is too plain to compare
ALIKE = 0.85  # least cosine similarity of two hashes
LARGE = 512  # pixels of the shorter side, above which only every k-th row and column counts
CHUNK = 256  # validation images compared at once
COPY = re.compile(r"(.+)\.rf\.\w+")  # Roboflow: the photo's name, .rf., a hash that each augmented copy has for itself


def original(image_id: str) -> str:
    """The photo that an image is an augmented copy of, by Roboflow's names; else the image itself."""
    found = COPY.fullmatch(PurePosixPath(image_id).name)
    return str(PurePosixPath(image_id).with_name(found[1])) if found else image_id


def fingerprint(pixels: np.ndarray) -> np.ndarray | None:
    """Hash (SIDE * SIDE,) int8 of a picture (H, W, 3) uint8; None if it is too plain."""
    step = max(1, min(pixels.shape[:2]) // LARGE)
    small = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step])).resize((SIDE + 1, SIDE), Image.Resampling.BOX)
    steps = np.diff(np.asarray(small) @ GREY, axis=1)
    signs = np.where(np.abs(steps) < EQUAL, 0, np.sign(steps)).astype(np.int8)
    return signs.ravel() if np.count_nonzero(signs) >= LEAST else None


class Picture(NamedTuple):
    """An image as it is compared. photo: what it is an augmented copy of, if it is one. hash: None if too plain."""

    where: str
    photo: str | None
    hash: np.ndarray | None


def picture(where: str, image_id: str, pixels: np.ndarray) -> Picture:
    """From pixels (H, W, 3) uint8."""
    photo = original(image_id)
    return Picture(where, None if photo == image_id else photo, fingerprint(pixels))


def leaks(train: Sequence[Picture], val: Sequence[Picture], own_validation: bool) -> Iterator[tuple[str, str, str]]:
    """(kind, training image, problem) of copies of one photo, and of pictures that look the same.

    own_validation: validation has its own folder, so that only the names of copies can agree, not their paths.
    """

    def photo(of: Picture) -> str | None:
        return PurePosixPath(of.photo).name if of.photo and own_validation else of.photo

    copies = {photo(its): its.where for its in val if its.photo}
    for mine in train:
        if other := copies.get(photo(mine)):
            remedy = "move one of them" if own_validation else "set `block: stem`"
            yield "copy", mine.where, f"a copy of the same photo as {other} in validation; {remedy}"
    ours = [(p.where, p.hash) for p in train if p.hash is not None and photo(p) not in copies]
    theirs = [(p.where, p.hash) for p in val if p.hash is not None]
    remedy = "move one of them" if own_validation else "put such images into one sub-folder and set `block: folder`"
    for first, second in pairs([found for _, found in ours], [found for _, found in theirs]):
        text = f"looks like {theirs[second][0]} in validation, which makes scores too good; {remedy}"
        yield "alike", ours[first][0], text


def pairs(train: Sequence[np.ndarray], val: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """(training image, the validation image most like it, mirrored or not), of those that are alike."""
    if not train or not val:
        return
    mine = _unit(np.stack(train))
    best, partner = np.full(len(mine), -1.0, np.float32), np.zeros(len(mine), int)
    for first in range(0, len(val), CHUNK):
        others = np.stack(val[first : first + CHUNK]).reshape(-1, SIDE, SIDE)
        for shown in (others, -others[:, :, ::-1]):
            similarity = mine @ _unit(shown.reshape(len(others), -1)).T
            nearest = similarity.argmax(1)
            value = similarity[np.arange(len(mine)), nearest]
            partner[value > best] = first + nearest[value > best]
            best = np.maximum(best, value)
    for index in np.flatnonzero(best >= ALIKE).tolist():
        yield index, int(partner[index])


def _unit(hashes: np.ndarray) -> np.ndarray:
    found = hashes.astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)
