"""The report's tables: one row per dataset, partition and method, and one row per run.

CSV and Parquet hold scores as fractions (0…1) at full precision; the other formats show percent.
Spreads are standard deviations over seeds with ddof = 1, undefined for a single seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dualteacher.reporting import statistics
from dualteacher.reporting.results import Results, Run, spoken
from dualteacher.system import files

KEYS = ["dataset", "partition", "method"]
SCORES = ["miou", "best_miou", "pixel_accuracy", "mean_accuracy"]
COSTS = ["student_images", "teacher_images", "seconds", "images_per_second", "peak_memory_bytes", "parameters"]
NONE = "—"


def per_seed(results: Results) -> pd.DataFrame:
    """One row per run; `difference` is its mIoU minus the baseline's with the same seed."""
    baseline = results.settings.report.baseline
    table = pd.DataFrame([_row(run) for run in results.runs])
    table["bound"] = table["partition"].isin(results.settings.grid.also.bound.partition)
    keys = ["dataset", "partition", "seed"]
    reference = table[table["method"] == baseline].set_index(keys)["miou"]
    paired = reference.reindex(pd.MultiIndex.from_frame(table[keys])).to_numpy()
    table["difference"] = table["miou"] - paired
    table.loc[table["method"] == baseline, "difference"] = math.nan
    return table


def _row(run: Run) -> dict[str, object]:
    cell, metrics, cost, split = run.cell, run.metrics, run.cost, run.provenance
    row: dict[str, object] = {name: getattr(cell, name) for name in (*KEYS, "seed")}
    row |= {name: int(split[name]) for name in ("labelled", "held_out", "unlabelled")}
    row |= {name: math.nan if metrics[name] is None else float(metrics[name]) for name in SCORES}
    row |= {name: math.nan if metrics[name] is None else int(metrics[name]) for name in ("last_epoch", "best_epoch")}
    row |= {"selected": str(metrics["selected"]), "validation_images": int(metrics["images"])}
    row |= {"alarms": " ".join(dict.fromkeys(alarm["name"] for alarm in run.alarms))}
    row |= {name: math.nan if cost[name] is None else float(cost[name]) for name in COSTS}
    row |= {"device": str(cost["device"]), "threads": int(cost["threads"])}
    return row | {"list": str(split.get("list") or ""), "list_sha256": str(split["list_sha256"])}


def aggregate(seeds: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds of `per_seed`'s table, in the order of its rows."""
    rows = []
    for key, group in seeds.groupby(KEYS, sort=False):
        row: dict[str, object] = dict(zip(KEYS, key, strict=True)) | {"seeds": len(group)}
        for name in ("labelled", "held_out", "unlabelled"):
            row |= {f"{name}_min": int(group[name].min()), f"{name}_max": int(group[name].max())}
        for name in SCORES:
            row |= {f"{name}_mean": group[name].mean(), f"{name}_std": group[name].std(ddof=1)}
        paired = statistics.paired(group["difference"].to_numpy())
        row |= {
            f"difference_{name}": getattr(paired, name)
            for name in ("n", "mean", "std", "low", "high", "t_low", "t_high")
        }
        row |= {name: group[name].mean() for name in COSTS}
        row |= {"selected": group["selected"].iloc[0], "bound": bool(group["bound"].any())}
        row["alarms"] = " ".join(dict.fromkeys(" ".join(group["alarms"]).split()))
        row["device"] = ", ".join(dict.fromkeys(group["device"]))
        row["list"] = " ".join(dict.fromkeys(filter(None, group["list"])))
        row["list_sha256"] = " ".join(dict.fromkeys(group["list_sha256"]))
        rows.append(row)
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> dict[str, dict[str, dict[str, dict[str, float | int]]]]:
    """dataset → partition → method → mIoU and number of seeds, short enough for `dvc exp show`."""
    tree: dict[str, dict[str, dict[str, dict[str, float | int]]]] = {}
    for row in table.itertuples():
        cell: dict[str, float | int] = {"miou": round(float(row.miou_mean), 6), "seeds": int(row.seeds)}
        tree.setdefault(row.dataset, {}).setdefault(row.partition, {})[row.method] = cell
    return tree


# ---------------------------------------------------------------- number formats


def percent(value: float) -> str:
    """0.3521 → 35.2."""
    return NONE if math.isnan(value) else f"{100 * value:.1f}".replace("-", "−")


def spread(value: float) -> str:
    """Standard deviation in points; "<0.1" if it would round to zero, a dash if unknown."""
    return NONE if math.isnan(value) else "<0.1" if 0 < 100 * value < 0.05 else f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference in percentage points with its sign: 0.013 → +1.3."""
    if math.isnan(value):
        return NONE
    return "0.0" if abs(100 * value) < 0.05 else f"{100 * value:+.1f}".replace("-", "−")


def score(mean: float, std: float, shown: Callable[[float], str] = percent) -> str:
    """35.2 ± 0.6; with one seed 35.2 ± —."""
    return NONE if math.isnan(mean) else f"{shown(mean)} ± {spread(std)}"


def span(low: float, high: float, n: int, fewest: int = statistics.FEWEST) -> str:
    """An interval in points: −0.4 … +1.3; "n < 3" if there are too few seeds."""
    if math.isnan(low):
        return f"n < {fewest}" if n else NONE
    return f"{points(low)} … {points(high)}"


def millions(value: float) -> str:
    """Parameters: 3.41 M."""
    return NONE if math.isnan(value) else f"{value / 1e6:.2f} M"


def whole(value: float) -> str:
    """12345.0 → 12,345."""
    return NONE if math.isnan(value) else f"{value:,.0f}"


def between(low: int, high: int) -> str:
    """96, or 96–103 if it differs between seeds."""
    return whole(low) if low == high else f"{whole(low)}–{whole(high)}"


def duration(seconds: float) -> str:
    """Seconds as s, min or h, to three significant digits."""
    if math.isnan(seconds):
        return NONE
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


def memory(size: float) -> str:
    """Bytes as MiB or GiB."""
    if math.isnan(size):
        return NONE
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def rate(value: float) -> str:
    """Three significant digits: 3.14, 31.4, 314."""
    return NONE if math.isnan(value) else f"{value:.3g}" if value < 1000 else whole(value)


def short(hashes: str) -> str:
    """First eight digits of each of at most three hashes; "+2" counts the rest."""
    each = [one[:8] for one in hashes.split()]
    return " ".join(each[:3]) + (f" +{len(each) - 3}" if len(each) > 3 else "")


def named_split(name: str, hashes: str) -> str:
    """The official list's name, if any, and the labelled list's hash: dual_teacher_631 0ea2644b."""
    return f"{name} {short(hashes)}".strip()


HEADER = [
    *("dataset", "partition", "method", "seeds", "labelled", "unlabelled", "mIoU %", "epoch", "best epoch %"),
    *(
        "pixel acc. %",
        "mean acc. %",
        "Δ mIoU",
        "95 % t interval",
        "95 % bootstrap",
        "student images",
        "teacher images",
        "time",
        "images/s",
    ),
    *("memory", "parameters", "split"),
]
LEFT = {HEADER.index(name) for name in ("dataset", "partition", "method", "epoch", "split")}  # left-aligned
CHOSEN = {"last": "last", "held_out": "held-out best"}  # the epoch whose weights are scored


def named(row: Any) -> str:
    """Method of a row, marked if it is a bound."""
    return spoken(row.method) + (" (bound)" if row.bound else "")


def labels(row: Any) -> str:
    """Number of labelled images, and how many of them were held out to choose the epoch."""
    aside = f" ({between(row.held_out_min, row.held_out_max)} held out)" if row.held_out_max else ""
    return between(row.labelled_min, row.labelled_max) + aside


def for_people(table: pd.DataFrame) -> list[list[str]]:
    """Rows of text for the columns HEADER."""
    return [
        [
            *(row.dataset, row.partition, named(row), str(row.seeds)),
            *(labels(row), between(row.unlabelled_min, row.unlabelled_max)),
            score(row.miou_mean, row.miou_std),
            CHOSEN[row.selected],
            score(row.best_miou_mean, row.best_miou_std),
            score(row.pixel_accuracy_mean, row.pixel_accuracy_std),
            score(row.mean_accuracy_mean, row.mean_accuracy_std),
            score(row.difference_mean, row.difference_std, points),
            span(row.difference_t_low, row.difference_t_high, row.difference_n, fewest=2),
            span(row.difference_low, row.difference_high, row.difference_n),
            *(whole(row.student_images), whole(row.teacher_images), duration(row.seconds)),
            *(rate(row.images_per_second), memory(row.peak_memory_bytes), millions(row.parameters)),
            named_split(row.list, row.list_sha256),
        ]
        for row in table.itertuples()
    ]


def _note(baseline: str) -> str:
    return (
        "mIoU: mean ± standard deviation over seeds (ddof 1) at the last epoch, or at the epoch with the best score on"
        " held-out labelled images (see column epoch). best epoch: chosen on the validation images, so optimistic."
        f" Δ: difference to {spoken(baseline)} in points, paired by seed, with two 95 % intervals of its mean:"
        " Student's t, and expanded percentile bootstrap (too narrow for few seeds; none below 3). bound: trained on"
        " other labels. parameters: of the trained networks, with what is frozen."
    )


def plain(table: pd.DataFrame) -> str:
    """The table for a terminal, without its less important columns."""
    keep = [
        i for i, name in enumerate(HEADER) if name not in ("unlabelled", "mean acc. %", "memory", "parameters", "split")
    ]
    rows = [[row[i] for i in keep] for row in (HEADER, *for_people(table))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(keep))]
    aligned = [
        "  ".join(
            text.ljust(width) if column in LEFT else text.rjust(width)
            for text, width, column in zip(row, widths, keep, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([aligned[0], "─" * max(map(len, aligned)), *aligned[1:]])


def markdown(table: pd.DataFrame, baseline: str) -> str:
    rule = [":--" if i in LEFT else "--:" for i in range(len(HEADER))]
    lines = ["| " + " | ".join(row) + " |" for row in (HEADER, rule, *for_people(table))]
    return "\n".join([*lines, "", _note(baseline)]) + "\n"


def latex(table: pd.DataFrame, baseline: str) -> str:
    """A tabular to \\input; needs \\usepackage{booktabs}."""
    columns = "".join("l" if i in LEFT else "r" for i in range(len(HEADER)))
    rows = [" & ".join(_tex(text) for text in row) + r" \\" for row in (HEADER, *for_people(table))]
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"]
    return "\n".join([f"% {_note(baseline)}", *body, r"\end{tabular}"]) + "\n"


def _tex(text: str) -> str:
    replaced = {"\\": r"\textbackslash{}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "<": "$<$"}
    replaced |= {"±": r"$\pm$", "−": "$-$", "Δ": r"$\Delta$", "—": "---", "–": "--"}
    return "".join(replaced.get(letter, letter) for letter in text)


def curves(results: Results) -> pd.DataFrame:
    """One row per validation during training, for all runs; `dvc plots` draws them."""
    parts = []
    for run in results.runs:
        judged = run.history.dropna(subset="val_miou")[["epoch", "step", "val_miou"]]
        keys = {name: getattr(run.cell, name) for name in (*KEYS, "seed")}
        parts.append(pd.DataFrame(keys, index=judged.index).join(judged))
    return pd.concat(parts, ignore_index=True)


def write(table: pd.DataFrame, seeds: pd.DataFrame, validations: pd.DataFrame, folder: Path, baseline: str) -> None:
    """Write table.{csv,md,tex,parquet}, table_seeds.parquet and curves.csv to `folder`."""
    texts: Sequence[tuple[str, str]] = (
        ("table.csv", table.to_csv(index=False, lineterminator="\n")),
        ("curves.csv", validations.to_csv(index=False, lineterminator="\n")),
        ("table.md", markdown(table, baseline)),
        ("table.tex", latex(table, baseline)),
    )
    for name, text in texts:
        with files.atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for name, frame in (("table.parquet", table), ("table_seeds.parquet", seeds)):
        with files.atomic(folder / name) as temporary:
            frame.to_parquet(temporary, index=False)
