"""What choosing is worth: supervised training on 12 scenes and 12 more, chosen in several ways, against random ones.

Run in a clone: `python docs/labelling/measure.py`. Data: the positive control's textures (presets/control.yaml), 12
labelled of 600 scenes, then 24; each network is trained from scratch for 150 + 100 steps. The score is the mIoU on the
150 validation scenes after the last step. A row that docs/labelling/results.csv has already is not run again.
"""

import csv
import os
import sys
from pathlib import Path

from dualteacher import settings
from dualteacher.data import partition
from dualteacher.labelling import selection
from dualteacher.labelling.observe import Observer
from dualteacher.machine.device import setup
from dualteacher.models import saved
from dualteacher.stages import download, prepare, train, warmup, weights
from dualteacher.stages import partition as draw
from dualteacher.system import console, paths, sealed
from dualteacher.workflow import presets

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs/labelling/results.csv"
WORK = ROOT / "tmp/labelling"  # data, runs and logs of the measurement
SEEDS = range(5)
FIRST, MORE, STEPS = 12, 12, 100
STRATEGIES = ("random", "uncertainty", "disagreement", "diversity", "mixed")


def load() -> settings.Settings:
    """The control's settings, supervised training alone, on a partition for each strategy."""
    raw = presets.load("control", ROOT / "presets")
    raw["partition"] = {
        name: {"fraction": None, "count": FIRST, "list": None, "held_out": None} for name in ("first", *STRATEGIES)
    }
    raw["grid"] |= {"partition": ["first"], "method": ["supervised"]}
    raw["train"] |= {"steps": STEPS, "validate_every": 1000}
    return settings.parse(raw)


def score(loaded: settings.Settings, cell: paths.Cell) -> float:
    """Train a cell whose partition is there; the mIoU after its last step."""
    warmup.run(loaded, cell.dataset, cell.partition, cell.seed)
    train.run(loaded, cell.dataset, cell.partition, cell.method, cell.seed)
    return float(sealed.read_table(cell.history).to_pandas().val_miou.iloc[-1])


def choose(loaded: settings.Settings, by: str, seed: int) -> None:
    """Write the partition of the first images and those that `suggest --by` names."""
    first = paths.Cell("textures", "first", "supervised", seed)
    model, description = saved.load(first.student)
    pack, roles = selection.open_data(first, description)
    observer = Observer(model, pack, loaded.inference, setup(loaded.runtime))
    rows = [[pack.index(name) for name in names] for names in (roles.unlabelled, roles.labelled)]
    chosen = selection.choose(observer, first, *rows, MORE, by)
    labelled = [*roles.labelled, *(pack.ids[row] for row in chosen.rows)]
    partition.write(paths.Partition("textures", by, seed).table, pack.ids, labelled)


def main() -> None:
    """Every seed in turn, all strategies of it."""
    WORK.mkdir(parents=True, exist_ok=True)
    os.chdir(WORK)
    console.start()
    loaded = load()
    if not paths.Dataset("textures").val.exists():
        download.run(loaded, "textures")
        prepare.run(loaded, "textures")
    if not paths.backbone_weights(loaded.model.backbone).exists():
        weights.run(loaded)
    done = list(csv.DictReader(TABLE.open(encoding="utf-8"))) if TABLE.exists() else []
    known = {(row["seed"], row["chosen_by"]) for row in done}
    for seed in SEEDS:
        for by in ("none", *STRATEGIES):
            if (str(seed), by) in known:
                continue
            if by == "none" or not paths.Cell("textures", "first", "supervised", seed).student.exists():
                draw.run(loaded, "textures", "first", seed)
                miou = score(loaded, paths.Cell("textures", "first", "supervised", seed))
            if by != "none":
                choose(loaded, by, seed)
                miou = score(loaded, paths.Cell("textures", by, "supervised", seed))
            labelled = len(
                partition.read(paths.Partition("textures", "first" if by == "none" else by, seed).table).labelled
            )
            done.append({"seed": str(seed), "chosen_by": by, "labelled": str(labelled), "miou": f"{miou:.4f}"})
            with TABLE.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(done[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(done)


if __name__ == "__main__":
    sys.exit(main())
