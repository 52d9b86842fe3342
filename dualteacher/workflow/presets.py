"""The presets of the paper's rows: `make presets` (`python -m dualteacher.workflow.presets`) writes them.

They are nearly equal, and a preset is a whole params.yaml, so they are made: presets/bluemarble.yaml, with its
comments, and here only what differs. For the user each file is still the whole truth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from dualteacher import settings
from dualteacher.data import official_lists
from dualteacher.system import files
from dualteacher.system.errors import UserError

FOLDER = Path("presets")
BASE = FOLDER / "bluemarble.yaml"
LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?P<value> [^\s#][^#]*?)?(?P<comment> +#.*)?$")
HEAD = """\
# {what}
{notes}# Made by `make presets` from dualteacher/workflow/presets.py and presets/bluemarble.yaml.
#
"""

ADE20K: dict[str, Any] = {
    "source": "ade20k",
    "archive": (None, "ADEChallengeData2016.zip or the folder it unpacks to; null: download"),
    "lists": True,
}
VOC: dict[str, Any] = {
    "source": "voc",
    "protocol": ("classic", "classic: VOC's own 1,464 masks; blended: SBD's for the others"),
    "archive": (None, "VOCtrainval_11-May-2012.tar or the folder it unpacks to; null: download"),
    "sbd": (None, "blended: benchmark.tgz or the folder it unpacks to; null: download"),
    "lists": True,
}
CITYSCAPES: dict[str, Any] = {
    "source": "cityscapes",
    "images": (None, "leftImg8bit_trainvaltest.zip or a folder with leftImg8bit/; null: csDownload"),
    "masks": (None, "gtFine_trainvaltest.zip or a folder with gtFine/; null: csDownload"),
    "lists": True,
}
TRAINING = {"ade20k": 20210, "voc": 10582, "cityscapes": 2975}  # images

# Both sides of every row. The control has no teacher, and so nothing of what is set for the others.
ROW = {"grid.method": ["supervised", "dual_teacher"], "grid.seed": [0], "warmup.steps": 0, "train.probe_images": 64}
MACHINE = {"runtime.threads": 4, "runtime.workers": 8}

RELEASED = {  # ADE20K, as released with the paper
    **{"model.architecture": "segformer", "model.backbone": "mit_b1", "model.weights": "data/weights/mit_b1.pth"},
    **{"model.head_width": 256, "model.dropout": 0.1, "model.drop_path": 0.1},
    **{"batch.labelled": 8, "batch.unlabelled": 8, "batch.groups": 2, "batch.crop": 512},
    **{"augment.resize": [2048, 512], "augment.scale": [0.5, 2.0], "augment.class_share": 0.75, "augment.flip": 0.5},
    **{"augment.photometric": True, "optimizer.name": "adamw", "optimizer.betas": [0.9, 0.999]},
    **{"optimizer.weight_decay": 0.01, "optimizer.head_multiplier": 10.0, "optimizer.ramp_steps": 1500},
    **{"optimizer.ramp_ratio": 0.000001, "optimizer.power": 1.0, "optimizer.horizon": 50000},
    **{"warmup.learning_rate": 0.00006, "train.learning_rate": 0.00006, "methods.*.normalisation": "batch"},
    **{"inference.mode": "whole", "inference.batch": 4, "inference.resize": [2048, 512], "inference.multiple": 32},
}
CNN = {  # VOC and Cityscapes: the nearest published settings, U2PL's
    **{"model.architecture": "deeplabv3plus", "model.weights": "timm", "model.head_width": 256},
    **{"model.dropout": 0.1, "model.drop_path": 0.1, "model.sync_norm": True},
    **{"batch.labelled": 16, "batch.unlabelled": 16},
    **{"augment.resize": None, "augment.scale": [0.5, 2.0], "augment.class_share": 1.0, "augment.flip": 0.5},
    **{"augment.photometric": False, "optimizer.name": "sgd", "optimizer.momentum": 0.9},
    **{"optimizer.head_multiplier": 10.0, "optimizer.ramp_steps": 0, "optimizer.power": 0.9},
    **{"optimizer.horizon": None, "methods.*.normalisation": "running", "inference.resize": None},
}
U2PL = (
    "The paper's code for this data set was never released; its author names U2PL's splits. So these are the nearest",
    "published settings, U2PL's (crop, 16 + 16 images, SGD, rates, loss), with Dual Teacher's own losses and views.",
)


def all_presets() -> dict[str, str]:
    """Texts by file name."""
    base = BASE.read_text(encoding="utf-8")
    return {f"{name}.yaml": make(base, **what) for name, what in _rows()}


def _rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, keywords of `make`)."""
    for name in official_lists.names("ade20k"):
        yield _ade20k(name)
    for name in official_lists.names("voc"):
        protocol, share = name.split("_", 1)
        for backbone in ("resnet50", "resnet101") if protocol != "unimatch" else ():
            yield _voc(name, share, protocol == "u2pl", backbone)
    for name in official_lists.names("cityscapes"):
        for backbone in ("resnet50", "resnet101") if name != "unimatch_1_30" else ():
            yield _cityscapes(name, backbone)


def _ade20k(name: str) -> tuple[str, dict[str, Any]]:
    labelled = official_lists.official("ade20k", name).labelled.lines
    epochs, horizon = 200, 50000
    notes = [
        "Settings as released with the paper, its two GPUs' 4 + 4 images each as two groups of one batch.",
        "Put the official mit_b1.pth (MiT-B1 with ImageNet-1K weights) at data/weights/mit_b1.pth.",
    ]
    length: dict[str, Any] = {"train.steps": None, "train.epochs": epochs}
    if labelled // 8 * epochs > horizon:
        length = {"train.steps": horizon, "train.epochs": None}
        notes.append(
            f"The released schedule reaches a rate of 0 at step {horizon:,}, in epoch {horizon // (labelled // 8)} of"
            f" {epochs}: training ends there."
        )
    changes = {
        **RELEASED,
        **length,
        "train.validate_every": 20,
        "report.title": f"ADE20K, {labelled:,} labelled images",
    }
    what = f"ADE20K, {labelled:,} of 20,210 training images labelled, SegFormer MiT-B1"
    return f"ade20k-{labelled}-mit_b1", _preset("ade20k", ADE20K, name, what, notes, changes)


def _voc(name: str, share: str, blended: bool, backbone: str) -> tuple[str, dict[str, Any]]:
    labelled = official_lists.official("voc", name).labelled.lines
    changes = CNN | _passes("voc", labelled, 80, "VOC") | {"model.backbone": backbone, "batch.crop": 513}
    changes |= {"optimizer.weight_decay": 0.0001, "warmup.learning_rate": 0.001, "train.learning_rate": 0.001}
    changes |= {"batch.groups": 4, "inference.mode": "whole", "inference.batch": 8}
    spoken, dataset = f"{labelled:,}", VOC
    notes = [*U2PL, "80 passes over the unlabelled images; the teachers switch after each such pass."]
    if blended:
        dataset = VOC | {"protocol": ("blended", VOC["protocol"][1])}
        spoken = f"{share.replace('_', '/')} ({labelled:,})"
        notes.append("U2PL's 1/16 and 1/8 label images with VOC's own masks only; UniMatch's hold 93 and 193 of them.")
    changes["report.title"] = f"PASCAL VOC 2012, {spoken} labelled images"
    what = f"PASCAL VOC 2012, {spoken} of 10,582 training images labelled, DeepLabV3+ {_spoken(backbone)}"
    prefix = f"voc-blended-{share}" if blended else f"voc-{share}"
    return f"{prefix}-{backbone}", _preset("voc", dataset, name, what, notes, changes)


def _cityscapes(name: str, backbone: str) -> tuple[str, dict[str, Any]]:
    labelled, share = official_lists.official("cityscapes", name).labelled.lines, name.removeprefix("unimatch_")
    changes = CNN | _passes("cityscapes", labelled, 200, "Cityscapes") | {"model.backbone": backbone}
    changes |= {"batch.crop": 769, "batch.groups": 8, "batch.accumulate": 2, "optimizer.weight_decay": 0.0005}
    changes |= {"warmup.learning_rate": 0.01, "train.learning_rate": 0.01, "loss.supervised": "ohem"}
    changes |= {"inference.mode": "slide", "inference.batch": 1, "inference.window": 769, "inference.stride": 513}
    spoken = f"{share.replace('_', '/')} ({labelled:,})"
    changes["report.title"] = f"Cityscapes, {spoken} labelled images"
    notes = [
        *U2PL,
        "200 passes over the unlabelled images; the teachers switch after each such pass.",
        "`accumulate: 2` is for the memory of one GPU; with as many GPUs as groups, 1 is enough.",
        "The images need an account with their publishers: see `datasets` below.",
        "UniMatch's lists: U2PL's of the same share hold other images, so the two are not compared like with like.",
    ]
    what = f"Cityscapes, {spoken} of 2,975 training images labelled, DeepLabV3+ {_spoken(backbone)}"
    return f"cityscapes-{share}-{backbone}", _preset("cityscapes", CITYSCAPES, name, what, notes, changes)


def _passes(source: str, labelled: int, passes: int, dataset: str) -> dict[str, Any]:
    """Length and turns in steps: U2PL's epoch is a pass over the unlabelled images, ours one over the labelled."""
    one = (TRAINING[source] - labelled) // 16
    epochs = passes * one // max(labelled // 16, 1)  # ours
    return {
        **{"train.steps": passes * one, "train.epochs": None, "train.validate_every": max(epochs // 10, 1)},
        **{"methods.dual_teacher.period": one, "methods.dual_teacher.period_unit": "step"},
    }


def _spoken(backbone: str) -> str:
    return backbone.replace("resnet", "ResNet-")


def _preset(
    source: str, dataset: Mapping[str, Any], name: str, what: str, notes: list[str], changes: Mapping[str, Any]
) -> dict[str, Any]:
    none = {"fraction": None, "count": None}
    partitions = {other: {**none, "list": other, "held_out": None} for other in official_lists.names(source)}
    values = {**ROW, **MACHINE, **changes, "grid.dataset": [source], "grid.partition": [name]}
    sections = {"datasets": {source: dataset}, "partition": partitions}
    return {"what": what, "notes": notes, "values": values, "sections": sections}


# ---------------------------------------------------------------- a params.yaml with other values


def make(base: str, what: str, notes: list[str], values: Mapping[str, Any], sections: Mapping[str, Any]) -> str:
    """`base` with `values` by dotted key ("methods.*.x": wherever it stands) and whole `sections` replaced.

    Comments stay, except those of a replaced section; UserError if a key is not there.
    """
    lines: list[str] = []
    stack: list[str] = []
    left = set(values)
    replaced = False
    for line in base.splitlines():
        match = LINE.match(line)
        if match is None:
            if not (replaced and line.strip()):
                lines.append(line)
                replaced = replaced and bool(line.strip())
            continue
        stack = [*stack[: len(match["indent"]) // 2], match["key"]]
        if len(stack) == 1:
            replaced = stack[0] in sections
            if replaced:
                lines += [f"{match['key']}:{match['comment'] or ''}", *_block(sections[stack[0]], 1)]
                continue
        if replaced:
            continue
        key = next((name for name in (".".join(stack), _anywhere(stack)) if name in values), None)
        if key is not None:
            left.discard(key)
            line = f"{match['indent']}{match['key']}: {spell(values[key])}{match['comment'] or ''}"
        lines.append(line)
    if left:
        raise UserError(f"{BASE}: has no {', '.join(sorted(left))}, which dualteacher/workflow/presets.py sets")
    head = HEAD.format(what=what, notes="".join(f"# {note}\n" for note in notes))
    text = head + "\n".join(lines) + "\n"
    settings.parse(yaml.safe_load(text), what)
    return text


def _anywhere(stack: list[str]) -> str:
    return ".".join([stack[0], "*", *stack[2:]]) if len(stack) > 2 else ""


def _block(values: Mapping[str, Any], depth: int) -> Iterator[str]:
    """Lines of a mapping; a mapping of plain values in a mapping stands in one line, (value, comment) keeps both."""
    for key, value in values.items():
        comment = ""
        if isinstance(value, tuple):
            value, comment = value[0], f" # {value[1]}"
        if isinstance(value, Mapping) and depth < 2 and not _plain(value):
            yield f"{'  ' * depth}{key}:{comment}"
            yield from _block(value, depth + 1)
        else:
            yield f"{'  ' * depth}{key}: {spell(value)}{comment}"


def _plain(values: Mapping[str, Any]) -> bool:
    return len(values) <= 4 and "source" not in values


def spell(value: Any) -> str:
    """A value as params.yaml spells it: 0.00006, not 6e-05."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {spell(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(spell, value)) + "]"
    if isinstance(value, float):
        text = f"{value:.12f}".rstrip("0")
        return text + "0" if text.endswith(".") else text
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z][\w./-]*", value) else f'"{value}"'
    return "null" if value is None else str(value).lower()


def main() -> None:
    wanted = all_presets()
    for name, text in wanted.items():
        if files.update_text(FOLDER / name, text):
            print(f"{FOLDER / name}: rewritten")
    print(f"{len(wanted)} presets are up to date")


if __name__ == "__main__":
    main()
