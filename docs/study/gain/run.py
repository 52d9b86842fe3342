"""Recipes for few labels, each alone and together, at one budget: a warm-up and as many steps for every method.

    python docs/study/gain/run.py tiles DUBAI TILES      cut tiles; places 1, 3 and 4 are for validation
    python docs/study/gain/run.py run DATA RECIPE SEED   one row of results.csv
    python docs/study/gain/run.py table                  the tables of README.md

DATA is the tiles' folder, or `bluemarble`, `landcover` or `textures`. Run it in the project's folder; it works in
`--work`. A row that results.csv has already is not run again.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from dualteacher import settings
from dualteacher.reporting import statistics
from dualteacher.stages import download, evaluate, partition, prepare, train, warmup, weights
from dualteacher.system import paths
from dualteacher.workflow import presets

TILE = 128  # pixels, at half resolution
VALIDATION = ("place1", "place3", "place4")
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

WEIGHTS = {"loss.class_weights": "inverse_sqrt"}
PIXELS = {"pixels": "confident"}
TURNS = {"period_at_least": 50}
ALIGN = {"alignment": 0.5}
ADAPT = {"adaptive_floor": 0.6}
AVERAGE = {"evaluate.weights": "average"}
RARE = {"sampling.rare_classes": 0.1}
# name: (method, what differs from presets/base.yaml; a key without a dot is an option of the method)
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "supervised": ("supervised", {}),
    "mean_teacher": ("mean_teacher", {}),
    "dual_teacher": ("dual_teacher", {}),
    "supervised_weights": ("supervised", WEIGHTS),
    "supervised_average": ("supervised", AVERAGE),
    "supervised_weights_average": ("supervised", WEIGHTS | AVERAGE),
    "dual_teacher_weights": ("dual_teacher", WEIGHTS),
    "dual_teacher_confident": ("dual_teacher", PIXELS),
    "dual_teacher_turns": ("dual_teacher", TURNS),
    "dual_teacher_alignment": ("dual_teacher", ALIGN),
    "dual_teacher_adaptive": ("dual_teacher", ADAPT | PIXELS),
    "dual_teacher_average": ("dual_teacher", AVERAGE),
    "supervised_rare": ("supervised", RARE),
    "dual_teacher_rare": ("dual_teacher", RARE),
    "dual_teacher_all": ("dual_teacher", WEIGHTS | PIXELS | TURNS | ALIGN | AVERAGE),
    "mean_teacher_all": ("mean_teacher", WEIGHTS | PIXELS | ALIGN | AVERAGE),
}


def cut(source: Path, target: Path) -> None:
    """Photographs and masks at half resolution in whole tiles; masks by the nearest pixel."""
    for path in sorted((source / "images").glob("place*/*.jpg")):
        place = path.parent.name
        side = "validation" if place in VALIDATION else "training"
        image = Image.open(path).convert("RGB")
        mask = Image.open(source / "masks" / place / f"{path.stem}.png").convert("RGB")
        half = (image.width // 2, image.height // 2)
        pair = {
            "images": image.resize(half, Image.Resampling.BOX),
            "masks": mask.resize(half, Image.Resampling.NEAREST),
        }
        for top in range(0, half[1] - TILE + 1, TILE):
            for left in range(0, half[0] - TILE + 1, TILE):
                for kind, picture in pair.items():
                    out = target / f"{side}_{kind}" / f"{place}-{path.stem}-{top}-{left}.png"
                    out.parent.mkdir(parents=True, exist_ok=True)
                    picture.crop((left, top, left + TILE, top + TILE)).save(out)


def dataset(data: str) -> tuple[str, dict[str, Any]]:
    """The name and the settings of a data set."""
    if data == "bluemarble":
        return data, presets.load("bluemarble")["datasets"][data]
    if data == "landcover":
        return data, presets.load("landcover")["datasets"][data]
    if data == "textures":
        return data, presets.load("control")["datasets"][data]
    return "dubai", {
        "source": "folder", "folder": str(Path(data).resolve()), "images": "training_images",
        "masks": "training_masks", "mask_suffix": "", "unlabelled": None,
        "validation": {"share": None, "images": "validation_images", "masks": "validation_masks"},
        "block": "image", "ignore": IGNORED, "on_error": "stop",
        "classes": [{"name": name, "color": color, "value": color} for name, color in CLASSES.items()],
    }  # fmt: skip


def configure(data: str, recipe: str, seed: int, steps: int) -> settings.Settings:
    """presets/base.yaml with the data set, the budget and the recipe."""
    method, changes = RECIPES[recipe]
    name, described = dataset(data)
    raw = presets.load("bluemarble")
    raw["datasets"] = {name: described}
    raw["partition"] = {"few": {"fraction": None, "count": LABELS, "list": None, "held_out": None}}
    raw["grid"] |= {"dataset": [name], "partition": ["few"], "method": [recipe], "seed": [seed]}
    raw["warmup"] |= {"steps": steps // 2}
    raw["train"] |= {"steps": steps, "validate_every": 1000, "probe_images": 0}
    raw["runtime"] |= {"device": "cpu", "threads": 1, "checkpoint_minutes": 60}
    raw["methods"] = {recipe: dict(raw["methods"][method])}
    raw["report"]["baseline"] = recipe
    for key, value in changes.items():
        section, _, last = key.rpartition(".")
        (raw[section] if section else raw["methods"][recipe])[last] = value
    return settings.parse(raw)


def row(data: str, recipe: str, seed: int, steps: int, work: Path) -> dict[str, Any]:
    """Run every stage of one cell; its scores on the validation images after the last step."""
    made = configure(data, recipe, seed, steps)
    (name,) = made.grid.dataset
    shared_by = [
        key for key in RECIPES[recipe][1] if key.startswith(("loss.", "sampling."))
    ]  # of these the warm-up depends
    folder = work / "-".join([name, str(steps), *shared_by])
    folder.mkdir(parents=True, exist_ok=True)
    shared = work / "data"
    shared.mkdir(exist_ok=True)
    if not (folder / "data").exists():
        (folder / "data").symlink_to(shared, target_is_directory=True)
    os.chdir(folder)
    if not paths.backbone_weights(made.model.backbone).exists():
        weights.run(made)
    if not paths.Dataset(name).stats.exists():
        download.run(made, name)
        prepare.run(made, name)
    partition.run(made, name, "few", seed)
    warmup.run(made, name, "few", seed)
    train.run(made, name, "few", recipe, seed)
    evaluate.run(made, name, "few", recipe, seed)
    cell = paths.Cell(name, "few", recipe, seed)
    metrics = json.loads(cell.metrics.read_text())
    history = pd.read_parquet(cell.history)
    classes = pd.read_parquet(cell.per_class)
    last = history.iloc[-1]
    return {
        "data": name, "recipe": recipe, "seed": seed, "labels": LABELS, "warmup": steps // 2, "steps": steps,
        "miou": metrics["miou"], "pixel_accuracy": metrics["pixel_accuracy"],
        "kept": last["kept"],
        "class_iou": " ".join(
            f"{c.class_name.replace(' ', '_')}:{100 * c.iou:.1f}" for c in classes.itertuples() if np.isfinite(c.iou)
        ),
        "seconds": json.loads(cell.cost.read_text())["seconds"],
        "command": f"run.py run {data if data == name else 'TILES'} {recipe} {seed} --steps {steps}",
    }  # fmt: skip


def markdown(rows: pd.DataFrame) -> str:
    """A table for each data set: scores in %, differences to `supervised` in points, paired by seed."""
    text = []
    for data, part in rows.groupby("data", sort=False):
        text += [f"### {data}, {part.warmup.iloc[0]} + {part.steps.iloc[0]} steps\n"]
        text += ["| recipe | seeds | mIoU | Δ | 95 % interval (t) | pixel accuracy | Δ IoU by class |"]
        text += ["|---|--:|--:|--:|--:|--:|---|"]
        base = part[part.recipe == "supervised"].set_index("seed")
        for recipe, own in part.groupby("recipe", sort=False):
            own = own.set_index("seed")
            difference = 100 * (own.miou - base.miou).dropna()
            found = statistics.paired(difference.to_numpy())
            interval = f"{found.t_low:+.1f} … {found.t_high:+.1f}" if found.n > 1 else "none"
            scores = f"{100 * own.miou.mean():.1f}", f"{100 * own.pixel_accuracy.mean():.1f}"
            if recipe == "supervised":
                shown = " ".join(f"{name} {value:.1f}" for name, value in by_class(own).mean().items())
                text.append(f"| {recipe} | {len(own)} | {scores[0]} | — | — | {scores[1]} | {shown} |")
                continue
            gains = (by_class(own) - by_class(base)).mean()
            shown = " ".join(f"{name} {value:+.1f}" for name, value in gains.items())
            gain = f"{found.mean:+.1f} | {interval}"
            text.append(f"| {recipe} | {found.n} | {scores[0]} | {gain} | {scores[1]} | {shown} |")
        text.append("")
    return "\n".join(text)


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
    run = commands.add_parser("run")
    run.add_argument("data")
    run.add_argument("recipe", choices=RECIPES)
    run.add_argument("seed", type=int)
    run.add_argument("--steps", type=int, default=300)
    run.add_argument("--work", type=Path, default=Path("study"))
    run.add_argument("--table", type=Path, default=TABLE)
    commands.add_parser("table")
    asked = parser.parse_args()
    if asked.command == "table":
        print(markdown(pd.read_csv(TABLE)))
        return
    if asked.command == "tiles":
        cut(asked.source, asked.target)
        return
    table = asked.table.resolve()
    rows = pd.read_csv(table) if table.exists() else pd.DataFrame({"command": []})
    made = row(asked.data, asked.recipe, asked.seed, asked.steps, asked.work.resolve())
    if made["command"] not in set(rows["command"]):
        rows = pd.read_csv(table) if table.exists() else pd.DataFrame()
        pd.concat([rows, pd.DataFrame([made])]).to_csv(table, index=False, float_format="%.4f", lineterminator="\n")


if __name__ == "__main__":
    sys.exit(main())
