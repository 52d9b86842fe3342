"""Guess where in a folder images and masks lie, and how the names of the two belong together.

Guesses only: `init` writes them into params.yaml and says them, and the user corrects what is wrong there.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from dualteacher.data.formats import images
from dualteacher.system.errors import UserError

# Words in the names of folders, as people call them.
MASKS = {"mask", "masks", "label", "labels", "annotation", "annotations", "segmentationclass", "segmentation"}
MASKS |= {"segmentations", "gt", "groundtruth", "gtfine", "ann", "ann_dir", "truth", "seg"}
VALIDATION = {"val", "valid", "validation", "holdout"}
TEST = {"test", "testing"}  # serves as validation where there is none
UNLABELLED = {"unlabelled", "unlabeled", "nolabel", "no_masks", "nomasks", "without_masks", "extra", "pool"}
SUFFIXES = ("_mask", "-mask", "_masks", "_label", "_labels", "_gt", "_seg", "_segmentation", "_annotation")
HELP = "put images and masks into folders of their own, or describe the folder by hand: see docs/own-data.md"


@dataclass(frozen=True)
class Places:
    """Folders below the dataset's, spelt as in params.yaml."""

    images: str
    masks: str
    mask_suffix: str
    unlabelled: str | None
    validation_images: str | None
    validation_masks: str | None


def places(root: Path) -> Places:
    """Where images and masks lie below `root`; UserError if no mask is found or the names do not match."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for name in image_files(root):
        words = [word.lower() for word in PurePosixPath(name).parts[:-1]]
        is_mask = any(word in MASKS for word in words)
        kinds = (("validation", VALIDATION), ("test", TEST), ("unlabelled", UNLABELLED))
        kind = next((kind for kind, known in kinds if any(word in known for word in words)), "train")
        groups.setdefault((is_mask, kind), []).append(name)
    found = groups.get((False, "train"), [])
    if not found:
        raise UserError(f"{root}: no images found ({', '.join(sorted(images.SUFFIXES))}); {HELP}")
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
    held_back = groups.get((False, kind))
    with_masks = groups.get((True, kind), held_back if not masks else None)
    own = bool(held_back and with_masks)
    return Places(
        images=top,
        masks=mask_top,
        mask_suffix=suffix,
        unlabelled=_top(groups[False, "unlabelled"]) if (False, "unlabelled") in groups else None,
        validation_images=_top(held_back) if own and held_back else None,
        validation_masks=_top(with_masks) if own and with_masks else None,
    )


def image_files(root: Path) -> list[str]:
    """Sorted relative paths of all images and masks below `root`."""
    names = []
    for place, inner, inside in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        below = Path(place).relative_to(root)
        names += [(below / name).as_posix() for name in inside if images.is_image(name)]
    return sorted(names)


def _top(names: Sequence[str]) -> str:
    """The innermost folder that holds all of them."""
    return os.path.commonpath([str(PurePosixPath(name).parent) for name in names]) or "."


def _keys(names: Sequence[str], top: str) -> set[str]:
    return {str(PurePosixPath(name).relative_to(top).with_suffix("")) for name in names}


def _suffix(keys: set[str], masks: set[str]) -> str | None:
    """What most masks' names have in addition to an image's; None if hardly any has an image."""
    found: Counter[str] = Counter()
    for mask in sorted(masks)[:200]:
        ends = [end for end in range(len(mask), 0, -1) if mask[:end] in keys]
        if ends:
            found[mask[ends[0] :]] += 1
    return found.most_common(1)[0][0] if found else None


def _suffix_inside(keys: set[str]) -> str | None:
    """The suffix that tells masks from images which lie in one folder."""
    pairs = Counter({suffix: sum(key + suffix in keys for key in keys) for suffix in SUFFIXES})
    suffix, number = pairs.most_common(1)[0]
    return suffix if number else None


def dataset_name(folder: Path) -> str:
    """A name as params.yaml allows it, from the folder's."""
    name = re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")
    plain = re.match(r"[a-z]", name) and isinstance(yaml.safe_load(name), str)  # not null, yes, …
    return name if plain else f"data_{name}".rstrip("_")
