"""The params.yaml that `init` writes: the preset `few-labels` with a dataset, sizes and lengths."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from dualteacher import settings
from dualteacher.data.formats import folder_layout, images
from dualteacher.system import console, parallel, walk
from dualteacher.system.errors import UserError
from dualteacher.workflow import engines, presets

OWN_DATA = Path("own_data")
AFFIXES = ("mask_prefix", "image_prefix", "image_suffix")  # rare, so left out if empty
BANDS = {  # likewise
    "bands": "of a file, from 1, in the order of the network's input",
    "rgb": "whether the first three bands are red, green and blue",
    "range": "of stored values, scaled to `depth` bits: dtype, percentile, [low, high], or a pair per band",
}
LOOKED_AT = 1000  # masks and images opened at most, evenly spread
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


def sample(names: Sequence[str]) -> list[str]:
    step = max(1, -(-len(names) // LOOKED_AT))
    return list(names[::step])


def compose(name: str, wanted: settings.Folder, quick: bool) -> tuple[str, list[str]]:
    """Return the text of params.yaml (preset `few-labels` with new data, sizes and lengths) and a list of choices."""
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
    chosen.append(
        f"presets/{presets.FEW_LABELS}.yaml: frozen batch statistics, gentle colour jitter, class weights, longer turns"
    )
    if not semi:
        chosen.append("no images without masks, so only `supervised`; add some for semi-supervised learning")
    return _text(name, wanted, values), chosen


def _text(name: str, wanted: settings.Folder, values: Mapping[str, Any]) -> str:
    """The preset `few-labels` with this dataset and `values`, by «section.key», as YAML with comments."""
    made = presets.few_labels()
    for key, value in values.items():
        section, _, last = key.partition(".")
        presets.overlay(made, {section: {last: value}})
    inside = Path(os.path.realpath(wanted.folder)).is_relative_to(os.path.realpath(OWN_DATA))
    presets.overlay(made, {"watched": OWN_DATA.as_posix() if inside else wanted.folder})
    behind = {f"link_{i}": path.as_posix() for i, path in enumerate(walk.links(wanted.folder), start=1)}
    presets.overlay(made, {"links": behind})
    presets.overlay(made, presets.commented(_dataset(name, wanted)))
    presets.overlay(made, presets.commented(PARTITION))
    return presets.dump(made)


def _sizes(wanted: settings.Folder, arranged: folder_layout.Layout) -> list[tuple[int, int]]:
    """Sizes (H, W) of a sample of images, from their headers."""
    names = sample([item.image for item in [*arranged.train, *arranged.val]])
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
    lists = "".join(f", {key}: {_flow(name)}" for key, name in (("list", own.list), ("test", own.test)) if name)
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
        f"    validation: {{share: {_flow(own.share)}, images: {_flow(own.images)}, masks: {_flow(own.masks)}{lists}}}",
        f"    block: {wanted.block} # image, folder, or stem (copies of a photo, .rf.): stays on one side as a whole",
        *(
            f"    {key}: {_flow(value)} # {meaning}"
            for key, meaning in BANDS.items()
            if (value := getattr(wanted, key)) != settings.Folder.model_fields[key].default
        ),
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
