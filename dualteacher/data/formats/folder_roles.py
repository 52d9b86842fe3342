"""What the names of folders and files say of their content: photos, masks, or pictures made from them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

# Common folder names, in lower case.
MASKS = {"mask", "masks", "label", "labels", "annotation", "annotations", "segmentationclass", "segmentation"}
MASKS |= {"segmentations", "gt", "groundtruth", "gtfine", "ann", "ann_dir", "truth", "seg", "masks_machine"}
MASKS |= {"segmentationclasspng"}
IMAGES = {"image", "images", "img", "imgs", "img_dir", "photo", "photos", "jpegimages", "leftimg8bit"}
TRAINING = {"train", "training", "train2014", "train2017"}  # the years: COCO
VALIDATION = {"val", "valid", "validation", "holdout", "val2014", "val2017"}
TEST = {"test", "testing", "test2017"}  # used for validation if there is no validation folder
UNLABELLED = {"unlabelled", "unlabeled", "nolabel", "no_masks", "nomasks", "without_masks", "extra", "pool"}
SPLITS = {"train": {*TRAINING, "tr"}, "validation": VALIDATION, "test": {*TEST, "ts"}}
COLOURED = re.compile(r"(masks?|labels?)_?(colou?r(ed)?s?|rgb)|colou?r(ed)?_?(masks?|labels?)")
DERIVED = re.compile(
    r".*(overlay|visuali[sz]ation|preview|thumbnail).*|predictions?|vis|viz|thumbs|confidence|heatmaps?|blend(s|ed)?"
    r"|segmentationobject(png)?|instance(s|_?masks?)?|masks?_(human|vis|viz)"
)
SUFFIXES = ("_mask", "-mask", "_masks", "_label", "_labels", "_gt", "_seg", "_segmentation", "_annotation")
DERIVED_SUFFIXES = (*SUFFIXES, "_overlay", "-overlay", "_vis", "_viz", "_color", "_colored", "_confidence", "_pred")


def parts_of(word: str) -> tuple[str, str | None]:
    """(a folder's name in lower case without the split it names, the split): imagesTr, train_masks, val."""
    word = word.lower()
    for split, words in SPLITS.items():
        if word in words and len(word) > 2:
            return "", split
        for other in sorted(words, key=len, reverse=True):
            for base in (word.removeprefix(f"{other}_"), word.removeprefix(f"{other}-"), word.removesuffix(other)):
                base = base.strip("_-") if base != word else ""
                if base in MASKS | IMAGES or (base and (COLOURED.fullmatch(base) or DERIVED.fullmatch(base))):
                    return base, split
    return word, None


def is_masks(word: str) -> bool:
    return parts_of(word)[0] in MASKS


def is_images(word: str) -> bool:
    return parts_of(word)[0] in IMAGES


def is_coloured(word: str) -> bool:
    """Masks in colour: the masks themselves if there are no others."""
    return COLOURED.fullmatch(parts_of(word)[0]) is not None


def is_derived(word: str) -> bool:
    """Pictures made from photos or masks: overlays, visualisations, thumbnails, instance masks."""
    return DERIVED.fullmatch(parts_of(word)[0]) is not None


def not_photos(names: Sequence[str]) -> list[str]:
    """Masks and derived pictures among image files that hold photos too, which they are named like."""
    made: dict[str, list[str]] = defaultdict(list)  # by the folder that says so
    photos: list[PurePosixPath] = []
    paths = [PurePosixPath(name) for name in names]
    places = {(path.parent, path.stem) for path in paths}
    beside: list[str] = []
    for path in paths:
        word = next(filter(_is_made, path.parts[:-1]), None)
        if word is not None:
            made[str(path)[: str(path).index(word) + len(word)]].append(str(path))
        elif any((path.parent, stem) in places for stem in _of(path.stem)):
            beside.append(str(path))
        else:
            photos.append(path)
    heads = {head for path in photos for head in _heads(path.stem)}
    whole = {_core(path.stem) for path in photos}
    for found in made.values():
        stems = [PurePosixPath(name).stem for name in found]
        if 2 * sum(_core(stem) in heads or not whole.isdisjoint(_heads(stem)) for stem in stems) >= len(found):
            beside += found
    return sorted(beside)


def is_made(path: PurePosixPath) -> bool:
    """Whether a folder's name says that it holds masks or pictures made from them."""
    return any(map(_is_made, path.parts[:-1]))


def _is_made(word: str) -> bool:
    return is_masks(word) or is_coloured(word) or is_derived(word)


def _of(stem: str) -> list[str]:
    """The names of photos that a file beside them could be made from."""
    return [stem.removesuffix(suffix) for suffix in DERIVED_SUFFIXES if stem.endswith(suffix)]


def _core(stem: str) -> str:
    return re.sub(r"^(image|img|mask|label|gt|overlay)[_-]", "", stem.lower())


def _heads(stem: str) -> list[str]:
    """The beginnings of a name that end before `_`, `-` or `.`, and the name itself."""
    core = _core(stem)
    return [core[: found.start()] for found in re.finditer(r"[_.\-]", core) if found.start()] + [core]
