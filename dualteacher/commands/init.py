"""Write params.yaml for a folder of your own images and list the assumptions (`init`)."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from dualteacher import settings
from dualteacher.commands.init_params import compose, sample
from dualteacher.data import likeness
from dualteacher.data.formats import (
    detect_bands,
    detect_classes,
    detect_layout,
    file_kinds,
    folder_files,
    folder_layout,
    folder_patterns,
    split_lists,
)
from dualteacher.data.formats.annotations import importer
from dualteacher.settings import strict_yaml
from dualteacher.system import files
from dualteacher.system.errors import UserError
from dualteacher.system.os_errors import broken_link
from dualteacher.system.walk import links
from dualteacher.workflow import presets

PARAMS = Path("params.yaml")
BASE = presets.FOLDER / f"{presets.BASE}.yaml"  # all other settings
VALIDATION = 0.2
SCENES = 5  # with fewer, a fifth of them is no scene
SEAL = "# Written by `init` ({}: `init` replaces this file unless it is edited).\n"


def run(folder: Path, name: str | None, force: bool, quick: bool) -> None:
    """Write params.yaml for `folder`; the old one is kept as params.yaml.bak.

    UserError, with params.yaml as before, if it has been edited and `force` is not set, or if the folder's layout
    is not recognised.
    """
    if not folder.is_dir():
        raise UserError(broken_link(folder) or f"{folder}: no such folder")
    check_replaceable(force)
    name = name or detect_layout.dataset_name(folder)
    described, told = describe(folder)
    wanted = valid(folder, described)
    text, more = compose(name, wanted, quick)
    if write(text, f"the settings for {folder}"):
        more.append(f"{PARAMS}.bak: the previous settings")
    print(f"{PARAMS}: written for dataset {name}, assuming:")
    for line in told + more:
        print(f"  {line}")
    print(
        "If this is right, run `python -m dualteacher check-data`, then `snakemake --cores all`;"
        " if not, edit params.yaml."
    )


def check_replaceable(force: bool) -> None:
    """UserError if this is not a project's folder, or if params.yaml has been edited and `force` is not set."""
    if not BASE.is_file():
        raise UserError(f"{BASE}: no such file; run this in the project's folder")
    if PARAMS.exists() and not force and not (_is_preset(PARAMS) or _is_own(PARAMS)):
        raise UserError(f"{PARAMS}: has been edited; --force replaces it and keeps a copy in {PARAMS}.bak")


def write(text: str, origin: str) -> bool:
    """Check the settings and write params.yaml; return whether the old one was kept as params.yaml.bak.

    The same settings once more leave params.yaml.bak alone, which may hold edited ones.
    """
    settings.parse(strict_yaml.parse(text, origin), origin)
    made = (SEAL.format(_digest(text.encode())) + text).encode()
    replaced = PARAMS.exists() and PARAMS.read_bytes() != made
    if replaced:
        shutil.copy2(PARAMS, PARAMS.with_suffix(".yaml.bak"))
    with files.atomic(PARAMS) as temporary:
        temporary.write_bytes(made)
    return replaced


def _is_preset(path: Path) -> bool:
    content = path.read_bytes()
    likely = [name for name in presets.names() if content.startswith(presets.head(name).encode())]
    return any(content == presets.text(name).encode() for name in likely)  # composing a preset takes 0.1 s


def _is_own(path: Path) -> bool:
    """Whether `init` wrote it and it has not been edited since."""
    first, _, rest = path.read_bytes().partition(b"\n")
    return first + b"\n" == SEAL.format(_digest(rest)).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def describe(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the dataset's settings and the assumptions behind them; annotations are rasterised first."""
    imported = None
    try:
        places = detect_layout.places(folder)
    except UserError:
        imported = importer.take(folder)
        if imported is None:
            raise
        places = imported.places
    own = places.validation_images is not None
    described: dict[str, Any] = {
        "source": "folder",
        "folder": _spell(folder),
        "images": places.images,
        "masks": places.masks,
        **asdict(places.affixes),
        "unlabelled": places.unlabelled,
        "validation": {
            "share": None if own else VALIDATION,
            "images": places.validation_images,
            "masks": places.validation_masks,
        },
        "block": "image",
        "classes": [{"name": str(value), "color": [0, 0, 0], "value": value} for value in (0, 1)],  # placeholder
        "ignore": [],
        "tolerance": 0.0,
        "on_error": "stop",
    }
    wanted = valid(folder, described)
    names = folder_layout.scan(wanted)
    arranged = folder_layout.arrange(names, wanted)
    masks = [item.mask for item in [*arranged.train, *arranged.val] if item.mask is not None]
    found = imported.classes if imported else detect_classes.guess(folder, sample(masks))
    entries = [*arranged.train, *arranged.val]
    photos, told = {likeness.original(entry.image_id) for entry in entries}, []
    lists = None if own else split_lists.find(folder, [entry.image for entry in entries if entry.mask is not None])
    used = [*(imported.sources if imported else [])]
    if lists is not None:
        described["validation"] |= {"share": None, "list": lists.validation, "test": lists.test}
        arranged = folder_layout.arrange(names, valid(folder, described))
        told = _say_lists(folder, lists, arranged)
        used += [lists.train] if lists.train else []
    elif folder_patterns.ANY in places.masks and not own:
        scenes = {str(PurePosixPath(entry.image).parent) for entry in entries if entry.mask is not None}
        kept = len(scenes) >= SCENES
        told = [f"scenes: {len(scenes)}; `block: folder` keeps each in training or in validation" + ", set" * kept]
        if kept:
            described["block"] = "folder"
            arranged = folder_layout.arrange(names, valid(folder, described))
    elif len(photos) < len(entries) and not own:
        told = [
            f"copies: {len(entries)} images of {len(photos)} photos (.rf. in their names), `block: stem` keeps them"
            " together"
        ]
        described["block"] = "stem"
        arranged = folder_layout.arrange(names, valid(folder, described))
    described |= {"classes": found.classes, "ignore": found.ignore, "tolerance": found.tolerance}
    bands, said = detect_bands.guess(folder, sample([entry.image for entry in entries]))
    described |= bands
    told = [*_say_unused(folder, [*arranged.files(), *used]), *told, *found.assumed, *said]
    where = places.validation_images if own else lists.validation if lists is not None else None
    return described, [*_say_places(places, arranged, where), *(imported.told if imported else []), *told]


def valid(folder: Path, described: dict[str, Any]) -> settings.Folder:
    """Validate guessed settings; UserError if they are invalid."""
    try:
        return settings.Folder.model_validate(described)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        reason = f"{key}: {reason}" if key else reason
        raise UserError(f"{folder}: layout not recognised: {reason}; {detect_layout.HELP}") from None


def _spell(folder: Path) -> str:
    """The path, relative if inside the project so that clones can use it too."""
    absolute = folder.absolute()
    return absolute.relative_to(Path.cwd()).as_posix() if absolute.is_relative_to(Path.cwd()) else str(absolute)


def _say_places(places: detect_layout.Places, arranged: folder_layout.Layout, where: str | None) -> list[str]:
    labelled = sum(item.mask is not None for item in arranged.train)
    affixes = places.affixes
    pattern = f"{places.masks}/{affixes.mask_prefix}NAME{affixes.mask_suffix}.*"
    photos = places.images
    if affixes.image_prefix or affixes.image_suffix:
        photos += f"/{affixes.image_prefix}NAME{affixes.image_suffix}.*"
    without = f" and {places.unlabelled}" if places.unlabelled else ""
    lines = [
        f"images: {photos}{without}; masks: {pattern}",
        f"training: {labelled} images with masks, {len(arranged.train) - labelled} without",
    ]
    where = where or f"{VALIDATION:.0%} of the images with masks, chosen by name hash"
    return [*lines, f"validation: {len(arranged.val)} image{'s' * (len(arranged.val) != 1)} ({where})"]


def _say_lists(folder: Path, lists: split_lists.SplitLists, arranged: folder_layout.Layout) -> list[str]:
    """What the lists of a split leave unclear."""
    said = [f"{name}: {len(unknown)} names fit no image" for name, unknown in arranged.lists.items() if unknown]
    if lists.test:
        said.append(f"{lists.test}: its images are left out")
    if lists.train:
        labelled = [entry.image for entry in arranged.train if entry.mask is not None]
        if more := len(labelled) - len(split_lists.resolve(folder / lists.train, labelled)[0]):
            said.append(f"{lists.train}: {more} further images with masks are used for training too")
    return said


def _say_unused(folder: Path, used: Sequence[str]) -> list[str]:
    said = [
        f"links to folders: {len(behind)}, for example {behind[0].relative_to(folder)}; listed in params.yaml, so that"
        " DVC follows them too"
        for behind in [links(folder)]
        if behind
    ]
    return said + [f"not used: {line}" for line in file_kinds.described(folder_files.unused(folder, used))]
