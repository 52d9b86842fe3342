"""Recipes for few labels, each alone and together, at one budget: a warm-up and as many steps for every method.

    python docs/study/gain/run.py tiles DUBAI TILES      cut tiles; whole places are for validation (`FOLDS`)
    python docs/study/gain/run.py run DATA RECIPE SEED   one row of results.csv
    python docs/study/gain/run.py table                  tables.md, from results.csv

DATA is the tiles' folder, or `bluemarble`, `landcover` or `textures`. Run it in the project's folder; it works in
`--work`. A row that results.csv has already is not run again.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from dualteacher import settings
from dualteacher.reporting import statistics
from dualteacher.stages import classes as class_stage
from dualteacher.stages import download, evaluate, partition, prepare, train, warmup, weights
from dualteacher.system import paths
from dualteacher.workflow import presets

TILE = 128  # pixels, at half resolution
FOLDS = {1: ("place1", "place3", "place4"), 2: ("place2", "place5", "place6")}  # the places of the validation tiles
LABELS = 40
CLASSES = {
    "building": [60, 16, 152],
    "land": [132, 41, 246],
    "road": [110, 193, 228],
    "vegetation": [254, 221, 58],
    "water": [226, 169, 41],
}
IGNORED = [[155, 155, 155], [0, 0, 0]]
TABLE = Path(__file__).parent.resolve() / "results.csv"

SMALL_JITTER = {"probability": 0.8, "brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.02}
# What an option changes in presets/base.yaml; a key without a dot is an option of the method.
OPTIONS: dict[str, dict[str, Any]] = {
    "frozen": {"batch.norm": "frozen"},
    "by_view": {"batch.norm": "by_view"},
    "group": {"model.head_norm": "group"},
    "gentle": {"mixing.cutmix_jitter": SMALL_JITTER, "mixing.strong_jitter": SMALL_JITTER, "mixing.grayscale": 0.0},
    "weights": {"loss.class_weights": "inverse_sqrt"},
    "effective": {"loss.class_weights": "effective_number"},
    "dice": {"loss.terms": ["cross_entropy", "dice"]},
    "focal": {"loss.terms": ["focal"]},
    "rare": {"sampling.rare_classes": 0.1},
    "paste": {"mixes": ["cutmix", "copy_paste"]},
    "cutmix": {"mixes": ["cutmix"]},
    "confident": {"pixels": "confident"},
    "adaptive": {"adaptive_floor": 0.6, "pixels": "confident"},
    "align": {"alignment": 0.5},
    "full_align": {"alignment": 1.0},
    "turns": {"period_at_least": 50},
    "average": {"evaluate.weights": "average"},
    "teachers": {"evaluate.weights": "teachers"},
    "ramp": {"ramp_steps": 100},
    "light": {"unlabelled_weight": 0.25, "consistency_weight": 0.05},
    "constant": {"optimizer.power": 0.0},
    "fast": {"warmup.learning_rate": 0.0006, "train.learning_rate": 0.0004},
    "slow": {"warmup.learning_rate": 0.00015, "train.learning_rate": 0.0001},
    "third": {"batch.labelled": 4, "batch.unlabelled": 12},
    "seventh": {"batch.labelled": 2, "batch.unlabelled": 14},
}
LABELLED = {"frozen", "group", "weights", "effective", "dice", "focal", "rare", "average", "constant", "fast", "slow"}
METHODS = ("supervised", "mean_teacher", "dual_teacher")


def parse(recipe: str) -> tuple[str, dict[str, Any]]:
    """The method, and all that its options change."""
    method, *options = recipe.split("+")
    if method not in METHODS or not {*options} <= {*OPTIONS}:
        raise SystemExit(f"{recipe}: methods are {', '.join(METHODS)}; options {', '.join(OPTIONS)}")
    changes: dict[str, Any] = {}
    for option in options:
        changes |= OPTIONS[option]
    return method, changes


def cut(source: Path, target: Path, side: int = TILE, scale: int = 2, fold: int = 1) -> None:
    """Photographs and masks at 1/`scale` of their resolution, in whole tiles of `side` pixels."""
    for path in sorted((source / "images").glob("place*/*.jpg")):
        place = path.parent.name
        split = "validation" if place in FOLDS[fold] else "training"
        image = Image.open(path).convert("RGB")
        mask = Image.open(source / "masks" / place / f"{path.stem}.png").convert("RGB")
        size = (image.width // scale, image.height // scale)
        pair = {
            "images": image.resize(size, Image.Resampling.BOX),
            "masks": mask.resize(size, Image.Resampling.NEAREST),
        }
        for top in range(0, size[1] - side + 1, side):
            for left in range(0, size[0] - side + 1, side):
                for kind, picture in pair.items():
                    out = target / f"{split}_{kind}" / f"{place}-{path.stem}-{top}-{left}.png"
                    out.parent.mkdir(parents=True, exist_ok=True)
                    picture.crop((left, top, left + side, top + side)).save(out)


def dataset(data: str, fold: int = 1) -> tuple[str, dict[str, Any]]:
    """The name and the settings of a data set. Fold 2 has other validation images."""
    suffix = "" if fold == 1 else str(fold)
    if suffix and data in ("bluemarble", "textures"):
        raise SystemExit(f"{data}: has no second fold")
    if data == "bluemarble":
        return data, presets.load("bluemarble")["datasets"][data]
    if data == "landcover":
        described = presets.load("landcover")["datasets"][data]
        return data + suffix, described if fold == 1 else described | {"block": 128}
    if data == "textures":
        return data, presets.load("control")["datasets"][data]
    return "dubai" + suffix, {
        "source": "folder", "folder": str(Path(data).resolve()), "images": "training_images",
        "masks": "training_masks", "mask_suffix": "", "unlabelled": None,
        "validation": {"share": None, "images": "validation_images", "masks": "validation_masks"},
        "block": "image", "ignore": IGNORED, "on_error": "stop",
        "classes": [{"name": name, "color": color, "value": color} for name, color in CLASSES.items()],
    }  # fmt: skip


def partition_name(labels: int) -> str:
    return "few" if labels == LABELS else f"few{labels}"


class Budget(NamedTuple):
    """What the rows of a table share: steps after the warm-up, labelled images, and the size of a run."""

    steps: int = 300
    labels: int = LABELS
    crop: int | None = None  # pixels; None: of the data set's preset
    device: str = "cpu"
    fold: int = 1


def configure(data: str, recipe: str, seed: int, budget: Budget) -> settings.Settings:
    """presets/base.yaml with the data set, the budget and the recipe."""
    method, changes = parse(recipe)
    entry = recipe.replace("+", "_")
    name, described = dataset(data, budget.fold)
    raw = presets.load("bluemarble")
    if data == "landcover":
        raw["batch"]["crop"] = raw["inference"]["window"] = 64
        raw["inference"]["stride"] = 48
    raw["datasets"] = {name: described}
    part = partition_name(budget.labels)
    raw["partition"] = {part: {"fraction": None, "count": budget.labels, "list": None, "held_out": None}}
    raw["grid"] |= {"dataset": [name], "partition": [part], "method": [entry], "seed": [seed]}
    raw["warmup"] |= {"steps": budget.steps // 2}
    raw["train"] |= {"steps": budget.steps, "validate_every": 1000, "probe_images": 0}
    raw["runtime"] |= {"device": budget.device, "threads": 1, "checkpoint_minutes": 60}
    if budget.crop:
        raw["batch"]["crop"] = raw["inference"]["window"] = budget.crop
    if budget.device != "cpu":
        raw["runtime"]["workers"] = 8
    raw["methods"] = {entry: dict(raw["methods"][method])}
    raw["report"]["baseline"] = entry
    for key, value in changes.items():
        section, _, last = key.rpartition(".")
        (raw[section] if section else raw["methods"][entry])[last] = value
    return settings.parse(raw)


def row(data: str, recipe: str, seed: int, budget: Budget, work: Path) -> dict[str, Any]:
    """Run every stage of one cell; its scores on the validation images after the last step."""
    made = configure(data, recipe, seed, budget)
    steps, labels = budget.steps, budget.labels
    (name,) = made.grid.dataset
    own = parse(recipe)[1]
    (entry,), (part,) = made.grid.method, made.grid.partition
    # a folder for whatever the warm-up depends on; with one view, `by_view` is `joint`
    after = {"evaluate", "mixing"}
    shared = [f"{key}={own[key]}" for key in own if "." in key and key.split(".")[0] not in after]
    parts = [name, str(steps), *shared] if labels == LABELS else [name, str(steps), f"labels={labels}", *shared]
    folder = work / re.sub(r"[^\w.=-]", "", "-".join(part for part in parts if "by_view" not in part))
    folder.mkdir(parents=True, exist_ok=True)
    data_folder = work / "data"
    data_folder.mkdir(exist_ok=True)
    if not (folder / "data").exists():
        (folder / "data").symlink_to(data_folder, target_is_directory=True)
    os.chdir(folder)
    if not paths.backbone_weights(made.model.backbone).exists():
        weights.run(made)
    if not paths.Dataset(name).stats.exists():
        download.run(made, name)
        prepare.run(made, name)
        class_stage.run(made, name)
    partition.run(made, name, part, seed)
    warmup.run(made, name, part, seed)
    train.run(made, name, part, entry, seed)
    evaluate.run(made, name, part, entry, seed)
    cell = paths.Cell(name, part, entry, seed)
    metrics = json.loads(cell.metrics.read_text())
    history = pd.read_parquet(cell.history)
    classes = pd.read_parquet(cell.per_class)
    last = history.iloc[-1]
    return {
        "data": name, "recipe": recipe, "seed": seed, "labels": labels, "warmup": steps // 2, "steps": steps,
        "miou": metrics["miou"], "pixel_accuracy": metrics["pixel_accuracy"],
        "kept": last["kept"],
        "class_iou": " ".join(
            f"{c.class_name.replace(' ', '_')}:{100 * c.iou:.1f}" for c in classes.itertuples() if np.isfinite(c.iou)
        ),
        "seconds": json.loads(cell.cost.read_text())["seconds"],
        "command": f"run.py run {'TILES' if name.startswith('dubai') else data} {recipe} {seed} --steps {steps}"
        + (f" --labels {labels}" if labels != LABELS else "")
        + (f" --crop {budget.crop}" if budget.crop else "")
        + (f" --fold {budget.fold}" if budget.fold > 1 else ""),
    }  # fmt: skip


def markdown(rows: pd.DataFrame) -> str:
    """A table for each data set, budget and number of labels: scores in %, differences in points, paired by seed.

    "with the same options": to `supervised` with those of the recipe's options that change it too.
    """
    text = []
    for (data, steps, labels), part in rows.groupby(["data", "steps", "labels"], sort=False):
        own = {str(recipe): of.set_index("seed") for recipe, of in part.groupby("recipe", sort=False)}
        text += [f"### {data}, {labels} labels, {part.warmup.iloc[0]} + {steps} steps\n"]
        text += ["| recipe | seeds | mIoU | pixel acc. | Δ supervised | Δ with the same options | Δ IoU by class |"]
        text += ["|---|--:|--:|--:|--:|--:|---|"]
        for recipe, found in own.items():
            same = "+".join(["supervised", *(option for option in recipe.split("+")[1:] if option in LABELLED)])
            gains = [difference(found, own.get(base)) if base != recipe else "—" for base in ("supervised", same)]
            classes = "—"
            if recipe == "supervised":
                classes = " ".join(f"{name} {value:.1f}" for name, value in by_class(found).mean().items())
            elif same in own and same != recipe and found.index.isin(own[same].index).any():
                change = (by_class(found) - by_class(own[same])).mean()
                classes = " ".join(f"{name} {value:+.1f}" for name, value in change.items())
            scores = f"{len(found)} | {100 * found.miou.mean():.1f} | {100 * found.pixel_accuracy.mean():.1f}"
            text.append(
                f"| {recipe} | {scores} | {gains[0]} | {gains[1] if same != 'supervised' else ''} | {classes} |"
            )
        text.append("")
    return "\n".join(text)


RECIPES = {method: f"{method}+frozen+gentle+weights" for method in METHODS}
RECIPES |= {"supervised": "supervised+frozen+weights", "dual_teacher": RECIPES["dual_teacher"] + "+turns"}
BUDGETS = {"dubai": (300, LABELS), "landcover": (200, LABELS), "textures": (250, 12)}  # steps, labels


def summary(rows: pd.DataFrame) -> str:
    """Tables across the data sets: each option added to the recipe, and the recipe at other lengths and labels."""
    found = {
        (str(data), int(steps), int(labels), str(recipe)): of.set_index("seed")
        for (data, steps, labels, recipe), of in rows.groupby(["data", "steps", "labels", "recipe"], sort=False)
    }
    text = []
    for method in ("dual_teacher", "supervised"):
        recipe = RECIPES[method]
        text += [f"### {recipe}: what an option adds\n", "Points of mIoU, paired by seed.\n"]
        text += [f"| option | {' | '.join(BUDGETS)} |", "|---|" + "--:|" * len(BUDGETS)]
        for option in OPTIONS:
            other = recipe.replace("weights", option) if option == "effective" else f"{recipe}+{option}"
            cells = [
                difference(found[data, *budget, other], found.get((data, *budget, recipe)))
                if (data, *budget, other) in found
                else ""
                for data, budget in BUDGETS.items()
            ]
            if any(cells):
                text.append(f"| {option} | {' | '.join(cells)} |")
        text.append("")
    text += ["### Lengths and labels\n", "mIoU in %, mean over the seeds that both have; the recipe's settings.\n"]
    text += ["| data | labels | steps | seeds | supervised | Dual Teacher | Δ |", "|---|--:|--:|--:|--:|--:|--:|"]
    for data, steps, labels in sorted({key[:3] for key in found}, key=lambda key: (key[0], key[2], key[1])):
        base, ours = (found.get((data, steps, labels, RECIPES[name])) for name in ("supervised", "dual_teacher"))
        if base is None or ours is None:
            continue
        both = base.index.intersection(ours.index)
        scores = f"{100 * base.miou[both].mean():.1f} | {100 * ours.miou[both].mean():.1f}"
        text.append(f"| {data} | {labels} | {steps} | {len(both)} | {scores} | {difference(ours, base)} |")
    return "\n".join([*text, "", ""])


def difference(rows: pd.DataFrame, base: pd.DataFrame | None) -> str:
    """Mean difference in mIoU over the seeds that both have, with Student's t interval; "" if there are none."""
    found = (100 * (rows.miou - base.miou)).dropna() if base is not None else pd.Series(dtype=float)
    if found.empty:
        return ""
    paired = statistics.paired(found.to_numpy())
    return f"{paired.mean:+.1f}" + (
        f" ({paired.t_low:+.1f} … {paired.t_high:+.1f})" if paired.n > 2 else f" (n = {paired.n})"
    )


def by_class(rows: pd.DataFrame) -> pd.DataFrame:
    """IoU in % by class, a row a seed."""
    pairs = [dict(item.rsplit(":", 1) for item in text.split()) for text in rows.class_iou]
    return pd.DataFrame(pairs, index=rows.index).astype(float)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    tiles = commands.add_parser("tiles")
    tiles.add_argument("source", type=Path)
    tiles.add_argument("target", type=Path)
    tiles.add_argument("--side", type=int, default=TILE, help="of a tile, pixels")
    tiles.add_argument("--fold", type=int, choices=FOLDS, default=1, help="which places are for validation")
    tiles.add_argument("--scale", type=int, default=2, help="by which the photographs are reduced")
    run = commands.add_parser("run")
    run.add_argument("data")
    run.add_argument("recipe", help="method+option+…")
    run.add_argument("seed", type=int)
    run.add_argument("--steps", type=int, default=300)
    run.add_argument("--labels", type=int, default=LABELS)
    run.add_argument("--crop", type=int, help="pixels; by default the data set's")
    run.add_argument("--device", default="cpu")
    run.add_argument("--fold", type=int, choices=FOLDS, default=1, help="2: other validation images")
    run.add_argument("--work", type=Path, default=Path("study"))
    run.add_argument("--table", type=Path, default=TABLE)
    commands.add_parser("table")
    asked = parser.parse_args()
    if asked.command == "table":
        rows = pd.read_csv(TABLE)
        head = "# Few labels: every row\n\nMade by `run.py table`; [README.md](README.md) explains the options.\n\n"
        TABLE.with_name("tables.md").write_text(head + summary(rows) + markdown(rows), encoding="utf-8")
        return
    if asked.command == "tiles":
        cut(asked.source, asked.target, asked.side, asked.scale, asked.fold)
        return
    table = asked.table.resolve()
    rows = pd.read_csv(table) if table.exists() else pd.DataFrame({"command": []})
    budget = Budget(asked.steps, asked.labels, asked.crop, asked.device, asked.fold)
    made = row(asked.data, asked.recipe, asked.seed, budget, asked.work.resolve())
    if made["command"] not in set(rows["command"]):
        rows = pd.read_csv(table) if table.exists() else pd.DataFrame()
        pd.concat([rows, pd.DataFrame([made])]).to_csv(table, index=False, float_format="%.4f", lineterminator="\n")


if __name__ == "__main__":
    sys.exit(main())
