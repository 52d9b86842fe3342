"""Guess which folders hold images and masks, and how mask names derive from image names, for `init`.

`init` prints the guesses and writes them to params.yaml, where the user corrects them.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from dualteacher.data.formats import file_kinds, folder_files
from dualteacher.system.errors import UserError

# Common folder names, in lower case.
MASKS = {"mask", "masks", "label", "labels", "annotation", "annotations", "segmentationclass", "segmentation"}
MASKS |= {"segmentations", "gt", "groundtruth", "gtfine", "ann", "ann_dir", "truth", "seg"}
IMAGES = {"image", "images", "img", "imgs", "img_dir", "photo", "photos", "jpegimages", "leftimg8bit"}
NEITHER = {"prediction", "predictions", "overlay", "overlays", "confidence", "thumbs", "thumbnails"}
TRAINING = {"train", "training", "train2014", "train2017"}  # the years: COCO
VALIDATION = {"val", "valid", "validation", "holdout", "val2014", "val2017"}
TEST = {"test", "testing", "test2017"}  # used for validation if there is no validation folder
UNLABELLED = {"unlabelled", "unlabeled", "nolabel", "no_masks", "nomasks", "without_masks", "extra", "pool"}
SUFFIXES = ("_mask", "-mask", "_masks", "_label", "_labels", "_gt", "_seg", "_segmentation", "_annotation")
HELP = "put images and masks into folders of their own, or describe the folder by hand: see docs/own-data.md"


@dataclass(frozen=True)
class Places:
    """Folders, relative to the dataset's, under their names in params.yaml."""

    images: str
    masks: str
    mask_suffix: str
    unlabelled: str | None
    validation_images: str | None
    validation_masks: str | None


def places(root: Path) -> Places:
    """Find the folders of images and masks below `root`; UserError without masks that are named like the images."""
    groups = _groups(folder_files.image_files(root))
    found = groups.get((False, "train"), [])
    if not found:
        raise UserError(f"{root}: no images found ({', '.join(sorted(file_kinds.SUFFIXES))}); {HELP}")
    top = _top(found)
    masks = groups.get((True, "train"))
    if masks:
        mask_top = _top(masks)
        suffix = _suffix(_keys(found, top), _keys(masks, mask_top))
    else:
        mask_top, suffix = top, _suffix_inside(_keys(found, top))
    if suffix is None:
        raise UserError(f"{root}: no masks found that are named like the images; {HELP}")
    kind = "validation" if (False, "validation") in groups else "test"
    held_out = groups.get((False, kind))
    held_out_masks = groups.get((True, kind), held_out if not masks else None)
    return Places(
        images=top,
        masks=mask_top,
        mask_suffix=suffix,
        unlabelled=_top(groups[False, "unlabelled"]) if (False, "unlabelled") in groups else None,
        validation_images=_top(held_out) if held_out and held_out_masks else None,
        validation_masks=_top(held_out_masks) if held_out and held_out_masks else None,
    )


def beside(names: Sequence[str], masked: Set[str], masks: str) -> Places:
    """Places of images whose masks are in the folder `masks`, at the images' own relative paths."""
    groups: dict[str, list[str]] = {}
    for (_, kind), found in _groups(names).items():  # a word for masks says nothing here: labelme writes beside images
        groups.setdefault(kind, []).extend(found)
    if not set(groups.get("unlabelled", [])).isdisjoint(masked):
        groups.setdefault("train", []).extend(groups.pop("unlabelled"))
    own = next((groups[kind] for kind in ("validation", "test") if not masked.isdisjoint(groups.get(kind, []))), None)
    if set(groups.get("train", [])).isdisjoint(masked):
        raise UserError(f"no training image is annotated; {HELP}")
    top = _top(groups["train"])
    held_out = _top(own) if own else None
    return Places(
        images=top,
        masks=str(PurePosixPath(masks) / top),
        mask_suffix="",
        unlabelled=_top(groups["unlabelled"]) if "unlabelled" in groups else None,
        validation_images=held_out,
        validation_masks=str(PurePosixPath(masks) / held_out) if held_out else None,
    )


def _groups(names: Sequence[str]) -> dict[tuple[bool, str], list[str]]:
    """Files by (whether they are masks, train, validation, test or unlabelled), from the words in their folders."""
    outer = len(PurePosixPath(_top(names)).parts) if names else 0  # folders around everything, whatever their names
    groups: dict[tuple[bool, str], list[str]] = {}
    for name in names:
        words = [word.lower() for word in PurePosixPath(name).parts[outer:-1]]
        if NEITHER.intersection(words):
            continue  # `init` counts them as not used
        is_mask = any(word in MASKS for word in words)
        kinds = (("validation", VALIDATION), ("test", TEST))
        kind = next((kind for kind, known in kinds if any(word in known for word in words)), "train")
        first = words[1:2] if words[:1] and words[0] in TRAINING else words[:1]
        if kind == "train" and not is_mask and UNLABELLED.intersection(first):
            kind = "unlabelled"  # a word deeper inside is a name like any other: a room, a place
        groups.setdefault((is_mask, kind), []).append(name)
    masks = [name for (is_mask, _), found in groups.items() if is_mask for name in found]
    if (False, "unlabelled") in groups and _have_masks(groups[False, "unlabelled"], masks):
        groups.setdefault((False, "train"), []).extend(groups.pop((False, "unlabelled")))
    return groups


def _have_masks(names: Sequence[str], masks: Sequence[str]) -> bool:
    """Whether an image has a mask of its name, beside it or at the same place among the masks."""

    def place(name: str) -> tuple[str, ...]:
        return tuple(word for word in PurePosixPath(name).parts[:-1] if word.lower() not in MASKS | IMAGES)

    stems = {(place(name), PurePosixPath(name).stem) for name in names}
    beside = any((where, stem + suffix) in stems for where, stem in stems for suffix in SUFFIXES)
    return beside or any(
        (where, stem[:end]) in stems
        for name in masks
        for where, stem in [(place(name), PurePosixPath(name).stem)]
        for end in range(1, len(stem) + 1)
    )


def _top(names: Sequence[str]) -> str:
    """The innermost folder that contains all of them."""
    return os.path.commonpath([str(PurePosixPath(name).parent) for name in names]) or "."


def _keys(names: Sequence[str], top: str) -> set[str]:
    return {str(PurePosixPath(name).relative_to(top).with_suffix("")) for name in names}


def _suffix(keys: set[str], masks: set[str]) -> str | None:
    """The most common suffix of a mask's name after an image's name; None if no mask matches an image."""
    found: Counter[str] = Counter()
    for mask in sorted(masks)[:200]:
        ends = [end for end in range(len(mask), 0, -1) if mask[:end] in keys]
        if ends:
            found[mask[ends[0] :]] += 1
    return found.most_common(1)[0][0] if found else None


def _suffix_inside(keys: set[str]) -> str | None:
    """The suffix that distinguishes masks from images in the same folder."""
    pairs = Counter({suffix: sum(key + suffix in keys for key in keys) for suffix in SUFFIXES})
    suffix, number = pairs.most_common(1)[0]
    return suffix if number else None


def dataset_name(folder: Path) -> str:
    """The folder's name, made valid as a dataset's name in params.yaml."""
    name = re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")
    plain = re.match(r"[a-z]", name) and isinstance(yaml.safe_load(name), str)  # YAML reads null, yes, … otherwise
    return name if plain else f"data_{name}".rstrip("_")
