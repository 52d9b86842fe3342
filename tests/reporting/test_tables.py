"""The numbers and the words computed from them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dualteacher.reporting import figures, sentences, tables


def seeds(**scores: list[float]) -> pd.DataFrame:
    """Per-seed rows of one dataset and partition from lists of mIoU."""
    baseline = scores["supervised"]
    rows = [
        {
            **{"dataset": "d", "partition": "p", "method": method, "seed": seed, "labelled": 10, "unlabelled": 90},
            **{"held_out": 0, "selected": "last", "bound": False, "alarms": ""},
            **{"miou": value, "best_miou": value, "pixel_accuracy": 0.5, "mean_accuracy": 0.5},
            **{"difference": math.nan if method == "supervised" else value - baseline[seed]},
            **{"student_images": 100.0, "teacher_images": 0.0, "seconds": 1.0, "images_per_second": 1.0},
            **{"peak_memory_bytes": 1.0, "parameters": 1.0, "device": "cpu", "list": "", "list_sha256": "a" * 64},
        }
        for method, values in scores.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_spread_is_the_sample_standard_deviation_and_differences_are_paired() -> None:
    table = tables.aggregate(seeds(supervised=[0.30, 0.40], dual_teacher=[0.32, 0.43])).set_index("method")
    assert table.loc["supervised", "miou_std"] == pytest.approx(0.1 / math.sqrt(2))
    assert table.loc["dual_teacher", "difference_mean"] == pytest.approx(0.025)
    assert table.loc["dual_teacher", "difference_std"] == pytest.approx(0.01 / math.sqrt(2))
    assert math.isnan(table.loc["supervised", "difference_mean"])


def test_one_seed_has_a_dash_for_its_spread_everywhere() -> None:
    table = tables.aggregate(seeds(supervised=[0.3], dual_teacher=[0.32]))
    assert table["miou_std"].isna().all()
    for text in (tables.plain(table), tables.markdown(table, "supervised")):
        assert "30.0 ± —" in text and "+2.0 ± —" in text and "± 0.0" not in text
    assert "nan" not in tables.latex(table, "supervised")


def test_files_for_programs_keep_all_digits(made: Path) -> None:
    csv = pd.read_csv(made / "results/report/table.csv")
    parquet = pd.read_parquet(made / "results/report/table.parquet")
    np.testing.assert_array_equal(csv["miou_mean"], parquet["miou_mean"])
    curves = pd.read_csv(made / "results/report/curves.csv")
    assert list(curves) == ["dataset", "partition", "method", "seed", "epoch", "step", "val_miou"]
    assert curves["val_miou"].notna().all() and curves.groupby(["method", "seed"]).ngroups == 6
    runs = pd.read_parquet(made / "results/report/table_seeds.parquet")
    assert len(parquet) == 3 and len(runs) == 6
    assert runs.groupby(tables.KEYS, sort=False)["miou"].mean().to_numpy() == pytest.approx(parquet["miou_mean"])


def test_an_official_list_is_named_with_its_hash_in_every_table() -> None:
    table = tables.aggregate(seeds(supervised=[0.3, 0.31]).assign(list="u2pl_1_16"))
    assert table["list"].tolist() == ["u2pl_1_16"]
    assert f"| u2pl_1_16 {'a' * 8} |" in tables.markdown(table, "supervised")
    assert rf"u2pl\_1\_16 {'a' * 8}" in tables.latex(table, "supervised")
    drawn = tables.aggregate(seeds(supervised=[0.3, 0.31]))
    assert f"| {'a' * 8} |" in tables.markdown(drawn, "supervised")


def test_latex_escapes_and_has_as_many_cells_in_each_row() -> None:
    table = tables.aggregate(seeds(supervised=[0.3, 0.31])).assign(partition="one_8&%")
    rows = [line for line in tables.latex(table, "supervised").splitlines() if line.endswith(r"\\")]
    assert r"one\_8\&\%" in rows[1]
    assert {line.replace(r"\&", "").count("&") for line in rows} == {len(tables.HEADER) - 1}


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (tables.points(-0.0131), "−1.3"),
        (tables.points(0.0131), "+1.3"),
        (tables.points(-0.0001), "0.0"),
        (tables.percent(math.nan), "—"),
        (tables.spread(0.0002), "<0.1"),
        (tables.spread(0.0), "0.0"),
        (tables.between(96, 103), "96–103"),
        (tables.duration(61.54), "61.5 s"),
        (tables.duration(141.0), "2.35 min"),
        (tables.duration(20 * 3600), "20 h"),
        (tables.memory(7.4e8), "706 MiB"),
        (tables.memory(3 * 2**30), "3.0 GiB"),
        (tables.short("abcdefgh12 12345678zz"), "abcdefgh 12345678"),
        (tables.whole(12345.0), "12,345"),
    ],
)
def test_numbers_as_people_read_them(shown: str, text: str) -> None:
    assert shown == text


def test_reading_of_a_clear_gain() -> None:
    read = sentences.read(seeds(supervised=[0.30, 0.31, 0.32], dual_teacher=[0.33, 0.345, 0.35]), "supervised")
    assert read.lead.startswith("Dual Teacher is ahead with 34.2 % mIoU, 3.2 points above Supervised (31.0 %).")
    assert "interval over three seeds (± 0.3 [+3.0 … +3.5]) excludes zero" in read.lead
    assert not any("does not beat" in text for text in read.remarks)


def test_reading_of_a_gain_within_the_spread() -> None:
    read = sentences.read(seeds(supervised=[0.30, 0.31, 0.32], dual_teacher=[0.34, 0.30, 0.33]), "supervised")
    assert "cannot tell the two apart" in read.lead


def test_reading_says_when_unlabelled_images_do_not_help() -> None:
    scores = seeds(supervised=[0.34, 0.35], mean_teacher=[0.32, 0.33], dual_teacher=[0.335, 0.352])
    read = sentences.read(scores, "supervised")
    assert read.lead.startswith("Supervised is ahead")
    told = [text for text in read.remarks if "does not beat Supervised" in text]
    assert len(told) == 2 and "−2.0 points" in " ".join(told) and "within the spread" in told[0]


def test_reading_of_one_seed_claims_nothing() -> None:
    read = sentences.read(seeds(supervised=[0.30], dual_teacher=[0.40]), "supervised")
    assert "chance" in read.lead and "exceeds" not in read.lead


def test_reading_names_unequal_compute_and_the_optimism_of_the_best_epoch() -> None:
    table = seeds(supervised=[0.30, 0.31], dual_teacher=[0.33, 0.34])
    table.loc[table["method"] == "dual_teacher", ["student_images", "teacher_images"]] = 300.0, 100.0
    table.loc[table["method"] == "supervised", "best_miou"] += 0.05
    remarks = " ".join(sentences.read(table, "supervised").remarks)
    assert "Dual Teacher trained on 3.0 × the images and ran its teacher on 1.0 ×" in remarks
    assert "up to 5.0 points (Supervised)" in remarks and "By best epoch, Supervised would be ahead." in remarks


def test_lines_over_seeds_interpolate_but_never_extend() -> None:
    short = pd.DataFrame({"step": [0, 10, 20], "loss": [4.0, 2.0, 0.0]})
    long = pd.DataFrame({"step": [5, 15, 30], "loss": [1.0, 3.0, 9.0]})
    band = figures.over_seeds([short, long], "step", "loss")
    assert band["x"].tolist() == [5, 10, 15, 20]
    assert band["mean"].tolist() == pytest.approx([2.0, 2.0, 2.0, 2.5])
    assert (band["low"] <= band["mean"]).all() and (band["mean"] <= band["high"]).all()
    assert figures.over_seeds([short.assign(loss=np.nan)], "step", "loss").empty


def test_a_temporary_teacher_is_followed_through_its_active_and_waiting_epochs() -> None:
    from types import SimpleNamespace as Stub

    history = pd.DataFrame(
        {
            **{"epoch": [1, 2, 3, 4], "teacher": [0, 1, 0, 1]},
            **{"distance_active": [1.0, 2.0, 3.0, 4.0], "distance_waiting": [10.0, 20.0, 30.0, 40.0]},
        }
    )
    followed = figures.teacher_tables(Stub(history=history), "distance")  # type: ignore[arg-type]
    assert followed["teacher A"]["value"].tolist() == [1.0, 20.0, 3.0, 40.0]
    assert followed["teacher B"]["value"].tolist() == [10.0, 2.0, 30.0, 4.0]
