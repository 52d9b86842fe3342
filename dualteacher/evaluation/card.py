"""Model card (Markdown) of a cell's weights, from the description in the weights file and the scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dualteacher.data.channels import RGB, Channels
from dualteacher.models import saved, tensors
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Evaluate

PRETRAINED = {"none": "no", "timm": "by timm", "wheel": "on ImageNet"}
USAGE = """\
```
python -m dualteacher predict {weights} photo.jpg
python -m dualteacher export {weights}
```

```python
from pathlib import Path

from dualteacher.models import saved

model, description = saved.load(Path("{weights}"))
logits = model(image)
```"""
RARE = 0.05  # classes with an IoU below this are listed under Limits


def render(
    weights: Path, model: Segmenter, description: Mapping[str, Any], metrics: Mapping[str, Any],
    per_class: pd.DataFrame, evaluate: Evaluate,
) -> str:  # fmt: skip
    """The card's text, a function of the arguments only.

    description: of the weights (see training/run.py). metrics, per_class: contents of metrics.json and
    per_class.parquet.
    """
    cell = description["cell"]
    parts = [
        f"# {cell['method']} on {cell['dataset']}, partition {cell['partition']}, seed {cell['seed']}",
        f"A network for semantic segmentation with {model.num_classes} classes. `python -m dualteacher evaluate` wrote"
        " this card from the description in the weights file and the scores it measured.",
        _table(["", ""], _facts(weights, model, description)),
        "## Scores",
        _scores(metrics, evaluate),
        "## Classes",
        _table(["index", "class", "colour", "IoU, %", "accuracy, %", "pixels, %"], _classes(description, per_class)),
        "## Use",
        _usage(weights),
        "## Limits",
        _limits(cell, per_class),
        "## Provenance",
        _table(["", ""], _provenance(description, metrics)),
        "<details><summary>All settings</summary>",
        f"```json\n{json.dumps(description['parameters'], indent=1, sort_keys=True)}\n```",
        "</details>",
    ]
    return "\n\n".join(parts) + "\n"


def _facts(weights: Path, model: Segmenter, description: Mapping[str, Any]) -> list[list[str]]:
    network, inference = model.settings, description["inference"]
    size = f"sides rounded to multiples of {inference['multiple']}"
    if inference["resize"]:
        size = f"fitted into {' × '.join(map(str, inference['resize']))} pixels, {size}"
    if inference["mode"] == "slide":
        size += f", in windows of {inference['window']} pixels every {inference['stride']}"
        size += ", tapered" if inference.get("blend") == "taper" else ""
    norm = ", group normalisation" if network.head_norm == "group" else ""
    return [
        ["weights", f"`{weights.name}`, self-describing safetensors"],
        ["network", f"{network.architecture}, head width {network.head_width}{norm}, on {network.backbone}"],
        ["parameters", f"{sum(parameter.numel() for parameter in model.parameters()):,}"],
        ["backbone pretrained", _pretrained(model)],
        ["input", f"{_input(model.channels)} in [0, 1]; the network normalises them itself"],
        ["mean, std", f"{_numbers(model.mean.flatten().tolist())}; {_numbers(model.std.flatten().tolist())}"],
        ["output", f"logits (B, {model.num_classes}, H/{model.stride}, W/{model.stride})"],
        ["image size for prediction", size],
        ["trained on", _data(description)],
        ["trained for", f"{description['steps']:,} steps after the warm-up"],
    ]


def _input(channels: Channels) -> str:
    return "RGB images (B, 3, H, W)" if channels == RGB else f"images (B, {channels.count}, H, W): {channels};"


def _pretrained(model: Segmenter) -> str:
    """Source of the backbone weights; older files lack the number of tensors loaded."""
    how = PRETRAINED.get(model.settings.weights, "from a checkpoint")
    if how == "no" or not model.pretrained:
        return how
    frozen = "; frozen, and not in the weights file" if saved.names_encoder(model) else ""
    return f"{how}: {tensors.origin_in_words(model.pretrained)}{frozen}"


def _data(description: Mapping[str, Any]) -> str:
    """Training images; weights of older versions lack their numbers."""
    crops = f"crops of {description['crop']} pixels"
    if "labelled" not in description:
        return crops
    return f"{description['labelled']:,} images with masks, {description['unlabelled']:,} without; {crops}"


def _scores(metrics: Mapping[str, Any], evaluate: Evaluate) -> str:
    names = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy"}
    views = f"{'one scale' if len(evaluate.scales) == 1 else f'scales {_numbers(evaluate.scales)}'}"
    views += ", with flip" if evaluate.flip else ", no flip"
    when = "after the last step"
    if metrics.get("selected") == "held_out":
        when = f"after epoch {metrics['selected_epoch']}, the best on labelled images held out from training"
    return (
        f"On the {metrics['images']:,} validation images, {when} ({views}).\n\n"
        + _table(["score", "%"], [[name, _percent(metrics[key])] for key, name in names.items()])
    )  # fmt: skip


def _classes(description: Mapping[str, Any], per_class: pd.DataFrame) -> list[list[str]]:
    total = per_class["target_pixels"].sum()
    colours = ["#" + "".join(f"{part:02x}" for part in entry["color"]) for entry in description["classes"]]
    return [
        [str(row.class_index), row.class_name, f"`{colour}`", _percent(row.iou), _percent(row.accuracy),
         _percent(row.target_pixels / total if total else math.nan)]
        for row, colour in zip(per_class.itertuples(), colours, strict=True)
    ]  # fmt: skip


def _usage(weights: Path) -> str:
    return USAGE.format(weights=weights)


def _limits(cell: Mapping[str, Any], per_class: pd.DataFrame) -> str:
    lines = [
        f"Evaluated on the validation images of {cell['dataset']} only.",
        "One seed; see the report for a comparison of seeds and methods.",
        "Redistribution must comply with the licences of the training images and of the pretrained backbone, which"
        " this card does not record.",
    ]
    present = per_class[per_class["target_pixels"] > 0]
    for title, found in (
        (f"Classes with an IoU below {_percent(RARE)} %", present[present["iou"] < RARE]),
        ("Classes absent from the validation images", per_class[per_class["target_pixels"] == 0]),
    ):
        if len(found):
            lines.insert(1, f"{title}: {', '.join(found['class_name'])}.")
    return "\n".join(f"- {line}" for line in lines)


def _provenance(description: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[list[str]]:
    hashes = {
        "weights' sha256": metrics["weights_sha256"],
        "parameters' fingerprint": description["params_fingerprint"],
        "training images' sha256": description.get("train_sha256"),
        "partition's sha256": description["partition_sha256"],
    }
    return [["program", description["program"]], *([name, f"`{value}`"] for name, value in hashes.items() if value)]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
