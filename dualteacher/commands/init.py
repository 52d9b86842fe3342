"""Write params.yaml for a folder of your own images and list the assumptions (`init`)."""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dualteacher import settings
from dualteacher.data import likeness
from dualteacher.data.formats import detect_classes, detect_layout, file_kinds, folder_files, folder_layout, images
from dualteacher.data.formats.annotations import importer
from dualteacher.settings import strict_yaml
from dualteacher.system import console, files, parallel
from dualteacher.system.errors import UserError
from dualteacher.system.os_errors import broken_link
from dualteacher.system.walk import links
from dualteacher.workflow import engines, presets

PARAMS = Path("params.yaml")
BASE = presets.FOLDER / f"{presets.BASE}.yaml"  # all other settings
OWN_DATA = Path("own_data")
AFFIXES = ("mask_prefix", "image_prefix", "image_suffix")  # rare, so left out if empty
LOOKED_AT = 1000  # masks and images opened at most, evenly spread
VALIDATION = 0.2
SEAL = "# Written by `init` ({}: `init` replaces this file unless it is edited).\n"
PARTITION = """\
partition: # which training images keep their masks; held_out: share of those kept for choosing the best epoch
  all: {fraction: null, count: all, list: null, held_out: null}
"""


@dataclass(frozen=True)
class Scale:
    """Size of a run, by hardware."""

    side: int  # of the crop, pixels; less for smaller images
    batch: int
    warmup: int  # steps
    train: int
    workers: int


ON_GPU, ON_CPU, QUICK = Scale(512, 8, 1000, 4000, 4), Scale(128, 8, 300, 300, 0), Scale(64, 4, 20, 20, 0)


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
    print("If this is right, run `python -m dualteacher check-data`; if not, edit params.yaml.")


def check_replaceable(force: bool) -> None:
    """UserError if this is not a project's folder, or if params.yaml has been edited and `force` is not set."""
    if not BASE.is_file():
        raise UserError(f"{BASE}: no such file; run this in the project's folder")
    if PARAMS.exists() and not force and not (_is_preset(PARAMS) or _is_own(PARAMS)):
        raise UserError(f"{PARAMS}: has been edited; --force replaces it and keeps a copy in {PARAMS}.bak")


def write(text: str, origin: str) -> bool:
    """Check the settings and write params.yaml; return whether there was one, which is kept as params.yaml.bak."""
    settings.parse(strict_yaml.parse(text, origin), origin)
    there = PARAMS.exists()
    if there:
        shutil.copy2(PARAMS, PARAMS.with_suffix(".yaml.bak"))
    with files.atomic(PARAMS) as temporary:
        temporary.write_text(SEAL.format(_digest(text.encode())) + text, encoding="utf-8")
    return there


def _is_preset(path: Path) -> bool:
    content = path.read_bytes()
    likely = sorted(presets.names(), key=lambda name: name != presets.DEFAULT)  # composing a preset takes 0.1 s
    return any(content == presets.text(name).encode() for name in likely)


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
    found = imported.classes if imported else detect_classes.guess(folder, _some(masks))
    entries = [*arranged.train, *arranged.val]
    photos, told = {likeness.original(entry.image_id) for entry in entries}, []
    if len(photos) < len(entries) and not own:
        told = [
            f"copies: {len(entries)} images of {len(photos)} photos (.rf. in their names), `block: stem` keeps them"
            " together"
        ]
        described["block"] = "stem"
        arranged = folder_layout.arrange(names, valid(folder, described))
    described |= {"classes": found.classes, "ignore": found.ignore, "tolerance": found.tolerance}
    told = [*_say_unused(folder, [*arranged.files(), *(imported.sources if imported else [])]), *told, *found.assumed]
    return described, [*_say_places(places, arranged, own), *(imported.told if imported else []), *told]


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


def _some(names: Sequence[str]) -> list[str]:
    step = max(1, -(-len(names) // LOOKED_AT))
    return list(names[::step])


def _say_places(places: detect_layout.Places, arranged: folder_layout.Layout, own: bool) -> list[str]:
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
    where = places.validation_images if own else f"{VALIDATION:.0%} of the images with masks, chosen by name hash"
    return [*lines, f"validation: {len(arranged.val)} image{'s' * (len(arranged.val) != 1)} ({where})"]


def _say_unused(folder: Path, used: Sequence[str]) -> list[str]:
    said = [
        f"links to folders: {len(behind)}, for example {behind[0].relative_to(folder)}; `dvc repro` sees no changes in"
        " them, Snakemake does"
        for behind in [links(folder)]
        if behind
    ]
    return said + [f"not used: {line}" for line in file_kinds.described(folder_files.unused(folder, used))]


def compose(name: str, wanted: settings.Folder, quick: bool) -> tuple[str, list[str]]:
    """Return the text of params.yaml (the base preset with new data, sizes and lengths) and a list of choices."""
    arranged = folder_layout.arrange(folder_layout.scan(wanted), wanted)
    labelled = sum(item.mask is not None for item in arranged.train)
    gpu = bool(engines.gpus("auto"))
    scale = QUICK if quick else ON_GPU if gpu else ON_CPU
    found = _sizes(wanted, arranged)
    short = int(statistics.median(min(size) for size in found))
    fit = scale.side * 5 // 4
    resize = None if short <= fit else [4 * fit, fit]
    crop = max(32, min(scale.side, short // 32 * 32))
    epoch = max(1, labelled // scale.batch)
    semi = len(arranged.train) > labelled
    methods = ["supervised"] if not semi else ["dual_teacher"] if quick else ["supervised", "dual_teacher"]
    values: dict[str, Any] = {
        "grid.dataset": [name],
        "grid.partition": ["all"],
        "grid.method": methods,
        "grid.seed": [0],
        "batch.labelled": min(scale.batch, max(2, labelled)),
        "batch.unlabelled": scale.batch,
        "batch.crop": crop,
        "augment.resize": resize,
        "warmup.steps": scale.warmup,
        "optimizer.ramp_steps": min(20, scale.train // 5),
        "train.steps": scale.train,
        "train.validate_every": max(1, scale.train // epoch // 10),
        "inference.mode": "slide" if resize is None and max(map(max, found)) > 2048 else "whole",
        "inference.batch": 8,
        "inference.resize": resize,
        "inference.window": crop,
        "inference.stride": max(1, crop * 2 // 3),
        "report.title": f"Dual Teacher on {name}",
        "runtime.threads": 1 if quick else max(1, min(8, parallel.cores() // len(methods))),
        "runtime.workers": scale.workers,
    }
    heights, widths = zip(*found, strict=True)
    chosen = [
        f"sizes: height {min(heights)}…{max(heights)}, width {min(widths)}…{max(widths)} pixels; crops of {crop},"
        + (f" from images scaled to {fit} pixels on the short side" if resize else " at full size"),
        f"length: {scale.warmup} + {scale.train} steps"
        f" ({'a quick try, whose scores mean little' if quick else 'GPU' if gpu else 'no GPU'})"
        f" of {values['batch.labelled']} images with masks"
        f"{f' and {scale.batch} without' if semi else ''}, {' and '.join(methods)}",
    ]
    if not semi:
        chosen.append("no images without masks, so only `supervised`; add some for semi-supervised learning")
    return _text(name, wanted, values), chosen


def _text(name: str, wanted: settings.Folder, values: Mapping[str, Any]) -> str:
    """The base preset with this dataset and `values`, by «section.key», as YAML with comments."""
    made = presets.base()
    for key, value in values.items():
        section, _, last = key.partition(".")
        presets.overlay(made, {section: {last: value}})
    inside = Path(os.path.realpath(wanted.folder)).is_relative_to(os.path.realpath(OWN_DATA))
    presets.overlay(made, {"watched": OWN_DATA.as_posix() if inside else wanted.folder})
    presets.overlay(made, presets.commented(_dataset(name, wanted)))
    presets.overlay(made, presets.commented(PARTITION))
    return presets.dump(made)


def _sizes(wanted: settings.Folder, arranged: folder_layout.Layout) -> list[tuple[int, int]]:
    """Sizes (H, W) of a sample of images, from their headers."""
    names = _some([item.image for item in [*arranged.train, *arranged.val]])
    jobs = (partial(_size, Path(wanted.folder) / name) for name in names)
    found = list(console.progress(parallel.ordered(jobs), "look", len(names), "image"))
    known = [size for size in found if size is not None]
    if not known:
        raise UserError(f"{wanted.folder}: cannot open any of {len(names)} images, for example {names[0]}")
    return known


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return images.size(path.read_bytes())
    except (OSError, images.Unreadable):
        return None


def _dataset(name: str, wanted: settings.Folder) -> str:
    """The section `datasets`, with comments."""
    own = wanted.validation
    lines = [
        "datasets:",
        f"  {_flow(name)}: # your own images; docs/own-data.md explains each key",
        "    source: folder",
        f"    folder: {_flow(wanted.folder)}",
        f"    images: {_flow(wanted.images)} # relative to `folder`, including sub-folders",
        f"    masks: {_flow(wanted.masks)}",
        f"    mask_suffix: {_flow(wanted.mask_suffix)} # _mask for a.jpg and a_mask.png",
        *(f"    {key}: {_flow(text)}" for key in AFFIXES if (text := getattr(wanted, key))),
        f"    unlabelled: {_flow(wanted.unlabelled)} # more images without masks, or null",
        f"    validation: {{share: {_flow(own.share)}, images: {_flow(own.images)}, masks: {_flow(own.masks)}}}",
        f"    block: {wanted.block} # image, folder, or stem (copies of a photo, .rf.): stays on one side as a whole",
        "    classes: # value: in the mask files, a number or [r, g, b]",
        *(
            f"      - {{name: {_flow(c.name)}, color: {_flow(c.color)}, value: {_flow(c.value)}}}"
            for c in wanted.classes
        ),
        f"    ignore: {_flow(wanted.ignore)} # mask values that mean no class",
        f"    tolerance: {_flow(wanted.tolerance)} # other values take the nearest one within it; 0: they are errors",
        f"    on_error: {wanted.on_error} # stop, or skip unusable files",
    ]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """A value as one line of YAML."""
    return yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10**6).strip()[1:-1]
