"""Tuning for the study, the same budget for every method: three values of one parameter each.

Run in a clone whose params.yaml is presets/bluemarble-tuning.yaml: `python docs/study/tune.py`. The score is the
mIoU, after the last epoch, on labelled training blocks that are held out; validation images and the study's seeds
take no part. The learning rate is chosen for `supervised` and used by all methods.
"""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

PARAMS = Path("params.yaml")
TABLE = Path("docs/study/tuning.csv")
WEIGHT = ("unlabelled_weight", [0.1, 0.3, 1.0])
CANDIDATES = {
    "supervised": ("learning_rate", [0.0001, 0.0002, 0.0004]),
    "mean_teacher": WEIGHT,
    "dual_teacher": WEIGHT,
    "fixmatch": WEIGHT,
    "unimatch": WEIGHT,
    "cps": WEIGHT,
}


def history(raw: dict, method: str) -> pd.DataFrame:
    """Run one cell with these parameters; its history."""
    PARAMS.write_text(yaml.safe_dump(raw, sort_keys=False))
    cell = Path("results/runs/bluemarble/tune") / method / f"seed{raw['grid']['seed'][0]}"
    command = ["snakemake", "--cores", "1", "--quiet", "all", "--", str(cell / "history.parquet")]
    subprocess.run(command, check=True)
    return pd.read_parquet(cell / "history.parquet")


def score(raw: dict, method: str) -> float:
    """The held-out mIoU after the cell's last epoch."""
    return float(history(raw, method).held_out_miou.dropna().iloc[-1])


def main() -> None:
    """Every candidate in turn; what is in the table already is not run again."""
    raw = yaml.safe_load(PARAMS.read_text())
    done = json.loads(TABLE.with_suffix(".json").read_text()) if TABLE.with_suffix(".json").exists() else []
    known = {(row["method"], row["value"]) for row in done}
    for method, (key, values) in CANDIDATES.items():
        section = raw["train"] if method == "supervised" else raw["methods"][method]
        for value in values:
            if (method, value) not in known:
                section[key] = value
                done.append({"method": method, "parameter": key, "value": value, "held_out_miou": score(raw, method)})
                TABLE.with_suffix(".json").write_text(json.dumps(done, indent=1))
        best = max((row for row in done if row["method"] == method), key=lambda row: row["held_out_miou"])
        section[key] = best["value"]
    pd.DataFrame(done).to_csv(TABLE, index=False, float_format="%.4f", lineterminator="\n")
    PARAMS.write_text(yaml.safe_dump(raw, sort_keys=False))


if __name__ == "__main__":
    sys.exit(main())
