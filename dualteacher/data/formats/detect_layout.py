"""Guess which folders hold images and masks, and how mask names derive from image names, for `init`.

`init` prints the guesses and writes them to params.yaml, where the user corrects them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from dualteacher.data.formats import file_kinds, folder_files, folder_patterns
from dualteacher.data.formats import folder_roles as roles
from dualteacher.data.formats.name_pairs import Affixes, find, find_inside
from dualteacher.system.errors import UserError

HELP = "put images and masks into folders of their own, or describe the folder by hand: see docs/own-data.md"


@dataclass(frozen=True)
class Places:
    """Folders, relative to the dataset's, under their names in params.yaml."""

    images: str
    masks: str
    affixes: Affixes
    unlabelled: str | None
    validation_images: str | None
    validation_masks: str | None


def places(root: Path) -> Places:
    """Find the folders of images and masks below `root`; UserError without masks that are named like the images."""
    names = folder_files.image_files(root)
    groups = _groups(_of_roles(names))
    found = groups.get((False, "train"), [])
    if not found:
        raise UserError(f"{root}: no images found ({', '.join(sorted(file_kinds.SUFFIXES))}); {HELP}")
    masks = groups.get((True, "train"))
    best = _best(found, masks)
    if best is None:
        raise UserError(f"{root}: no masks found that are named like the images; {HELP}")
    top, mask_top, affixes = best
    kind = "validation" if (False, "validation") in groups else "test"
    held_out = groups.get((False, kind))
    held_out_masks = groups.get((True, kind), held_out if not masks else None)
    return Places(
        images=top,
        masks=mask_top,
        affixes=affixes,
        unlabelled=_top(groups[False, "unlabelled"]) if (False, "unlabelled") in groups else None,
        validation_images=_place(held_out, top, roles.is_images) if held_out and held_out_masks else None,
        validation_masks=_place(held_out_masks, mask_top, roles.is_masks) if held_out and held_out_masks else None,
    )


def _place(names: Sequence[str], like: str, is_role: Callable[[str], bool]) -> str:
    """The folder of validation files, with `*` if that of the training files has one."""
    return (folder_patterns.common(names, is_role) if folder_patterns.ANY in like else None) or _top(names)


def beside(names: Sequence[str], masked: Set[str], masks: str) -> Places:
    """Places of images whose masks are in the folder `masks`, at the images' own relative paths."""
    groups: dict[str, list[str]] = {}
    for (_, kind), found in _groups(_of_roles(names)).items():  # images in `labels` too: labelme writes beside them
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
        affixes=Affixes(),
        unlabelled=_top(groups["unlabelled"]) if "unlabelled" in groups else None,
        validation_images=held_out,
        validation_masks=str(PurePosixPath(masks) / held_out) if held_out else None,
    )


def _best(found: Sequence[str], masks: Sequence[str] | None) -> tuple[str, str, Affixes] | None:
    """(folder of the images, folder of the masks, affixes) with most pairs.

    Tried: all images, only those in folders that are called so (not a logo at the top), masks beside images, folders
    of images and masks in each scene.
    """
    best: tuple[int, tuple[str, str, Affixes]] | None = None
    named = [name for name in found if any(map(roles.is_images, PurePosixPath(name).parts[:-1]))]
    for candidates in (found, named):
        if not candidates:
            continue
        tops = [(_top(candidates), _top(masks or candidates))]
        if masks and (scenes := folder_patterns.common(masks, roles.is_masks)):
            tops.append((folder_patterns.common(candidates, roles.is_images) or tops[0][0], scenes))
        for top, mask_top in tops:
            inside = _below(candidates, top)
            pairs = find(inside, _below(masks, mask_top)) if masks else find_inside(inside)
            if pairs is not None and (best is None or pairs[1] > best[0]):
                best = pairs[1], (top, mask_top, pairs[0])
    return best[1] if best is not None else None


def _below(names: Sequence[str], top: str) -> list[str]:
    return [folder_patterns.relative(name, top) or name for name in names]


def _of_roles(names: Sequence[str]) -> list[str]:
    """Without overlays, instance masks and the like, and coloured masks where there are others; all if none stays."""
    outer = len(PurePosixPath(_top(names)).parts) if names else 0

    def words(name: str) -> tuple[str, ...]:
        return PurePosixPath(name).parts[outer:-1]

    kept = [name for name in names if not any(map(roles.is_derived, words(name)))]
    plain = [name for name in kept if not any(map(roles.is_coloured, words(name)))]
    if any(any(map(roles.is_masks, words(name))) for name in plain) or find_inside(plain):
        kept = plain
    return kept if any(not any(map(roles.is_masks, words(name))) for name in kept) else list(names)


def _groups(names: Sequence[str]) -> dict[tuple[bool, str], list[str]]:
    """Files by (whether they are masks, train, validation, test or unlabelled), from the words in their folders."""
    outer = len(PurePosixPath(_top(names)).parts) if names else 0  # folders around everything, whatever their names
    groups: dict[tuple[bool, str], list[str]] = {}
    for name in names:
        words = [word.lower() for word in PurePosixPath(name).parts[outer:-1]]
        is_mask = any(roles.is_masks(word) or roles.is_coloured(word) for word in words)
        splits = {roles.parts_of(word)[1] for word in words}
        kind = next((kind for kind in ("validation", "test") if kind in splits), "train")
        first = words[1:2] if words[:1] and words[0] in roles.TRAINING else words[:1]
        if kind == "train" and not is_mask and roles.UNLABELLED.intersection(first):
            kind = "unlabelled"  # a word deeper inside is a name like any other: a room, a place
        groups.setdefault((is_mask, kind), []).append(name)
    masks = [name for (is_mask, _), found in groups.items() if is_mask for name in found]
    if (False, "unlabelled") in groups and _have_masks(groups[False, "unlabelled"], masks):
        groups.setdefault((False, "train"), []).extend(groups.pop((False, "unlabelled")))
    return groups


def _have_masks(names: Sequence[str], masks: Sequence[str]) -> bool:
    """Whether an image has a mask of its name, beside it or at the same place among the masks."""

    def place(name: str) -> tuple[str, ...]:
        words = PurePosixPath(name).parts[:-1]
        return tuple(word for word in words if not roles.is_masks(word) and not roles.is_images(word))

    stems = {(place(name), PurePosixPath(name).stem) for name in names}
    beside = any((where, stem + suffix) in stems for where, stem in stems for suffix in roles.SUFFIXES)
    return beside or any(
        (where, stem[:end]) in stems
        for name in masks
        for where, stem in [(place(name), PurePosixPath(name).stem)]
        for end in range(1, len(stem) + 1)
    )


def _top(names: Sequence[str]) -> str:
    """The innermost folder that contains all of them."""
    return os.path.commonpath([str(PurePosixPath(name).parent) for name in names]) or "."


def dataset_name(folder: Path) -> str:
    """The folder's name, made valid as a dataset's name in params.yaml."""
    name = re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")
    plain = re.match(r"[a-z]", name) and isinstance(yaml.safe_load(name), str)  # YAML reads null, yes, … otherwise
    return name if plain else f"data_{name}".rstrip("_")
