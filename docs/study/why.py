"""Why unlabelled images do not help on these tiles: Mean Teacher with one thing changed at a time.

Run in a clone whose params.yaml is presets/bluemarble-tuning.yaml: `python docs/study/why.py`. The same cells as in
tune.py (an eighth of the labels, as many held out to score on), over two seeds that the study does not use. A row
that why.csv has already is not run again.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from tune import history

from dualteacher.workflow import presets

TABLE = Path("docs/study/why.csv")
SEEDS = (100, 101)


def plain(raw: dict, method: dict) -> None:
    """As in the study."""


def no_weight(raw: dict, method: dict) -> None:
    """The unlabelled images pass through the network, and its batch normalisation, but teach it nothing."""
    method["unlabelled_weight"] = method["consistency_weight"] = 0.0


def no_consistency(raw: dict, method: dict) -> None:
    """The mixed images alone."""
    method["consistency_weight"] = 0.0


def no_colour(raw: dict, method: dict) -> None:
    """Strong views keep the colours of the weak ones."""
    raw["mixing"] |= {"blur": 0.0, "grayscale": 0.0}
    for name in ("cutmix_jitter", "strong_jitter"):
        raw["mixing"][name] = raw["mixing"][name] | {"probability": 0.0}


def surer(raw: dict, method: dict) -> None:
    """A higher threshold."""
    method["threshold"] = 0.99


def longer(raw: dict, method: dict) -> None:
    """A teacher that was warmed up three times as long."""
    raw["warmup"]["steps"] = 900


VARIANTS: dict[str, tuple[str, Callable[[dict, dict], None]]] = {
    "supervised": ("supervised", plain),
    "supervised, longer warm-up": ("supervised", longer),
    "mean_teacher": ("mean_teacher", plain),
    "mean_teacher, weights 0": ("mean_teacher", no_weight),
    "mean_teacher, no consistency": ("mean_teacher", no_consistency),
    "mean_teacher, colours kept": ("mean_teacher", no_colour),
    "mean_teacher, threshold 0.99": ("mean_teacher", surer),
    "mean_teacher, longer warm-up": ("mean_teacher", longer),
}


def run(name: str, seed: int) -> dict[str, object]:
    """One row: the scores after the last epoch, and how the teacher's labels were."""
    method, change = VARIANTS[name]
    raw = presets.load("bluemarble-tuning")
    study = presets.load("bluemarble-study")
    raw["train"], raw["methods"], raw["grid"]["seed"] = study["train"], study["methods"], [seed]
    change(raw, raw["methods"][method])
    last = history(raw, method).ffill().iloc[-1]
    columns = ("held_out_miou", "val_miou", "val_pixel_accuracy", "probe_coverage", "probe_accuracy")
    return {"variant": name, "seed": seed} | {column: last[column] for column in columns}


def main() -> None:
    """Every variant of every seed."""
    rows = pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []
    known = {(row["variant"], row["seed"]) for row in rows}
    for seed in SEEDS:
        for name in VARIANTS:
            if (name, seed) not in known:
                rows.append(run(name, seed))
                pd.DataFrame(rows).to_csv(TABLE, index=False, float_format="%.4f", lineterminator="\n")


if __name__ == "__main__":
    sys.exit(main())
