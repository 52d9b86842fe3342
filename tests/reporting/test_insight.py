"""The tables behind the scores, on made-up runs with known answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from results_tree import make_tree, parameters

from dualteacher.reporting import figures, insight, results, sentences, tables
from dualteacher.reporting.figures import insight as insight_figures
from dualteacher.reporting.page import build
from dualteacher.reporting.results import Results
from dualteacher.system import paths
from dualteacher.system.errors import UserError

ALSO = {
    "bound": {"partition": ["full"], "method": ["supervised"]},
    "ablation": {"partition": ["eighth"], "method": ["mean_teacher"]},
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> Results:
    """Three seeds, a bound and an ablation; the caller need not stand in the folder, except for pictures."""
    root = tmp_path_factory.mktemp("insight")
    grid = {"method": ["supervised", "dual_teacher"], "partition": ["eighth", "quarter"], "seed": [0, 1, 2]}
    settings = make_tree(root, parameters(**grid, also=ALSO))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return results.load(settings)


def with_runs(of: Results, **values) -> Results:
    """Every run with fields replaced by value(run)."""
    return Results(of.settings, [replace(run, **{k: v(run) for k, v in values.items()}) for run in of.runs], of.classes)


def test_comparisons_are_paired_by_seed_with_an_interval(loaded: Results) -> None:
    level = {"supervised": 0.3, "dual_teacher": 0.32, "mean_teacher": 0.29}
    wobble = [0.0, 0.01, -0.01]
    known = with_runs(
        loaded,
        metrics=lambda run: run.metrics | {
            "miou": level[run.cell.method] + 0.1 * run.cell.seed
            + (wobble[run.cell.seed] if run.cell.method != "supervised" else 0)
        },
    )  # fmt: skip
    table = insight.comparisons(tables.per_seed(known), "supervised").set_index(["partition", "method"])
    assert set(table.index) == {("eighth", "dual_teacher"), ("eighth", "mean_teacher"), ("quarter", "dual_teacher")}
    row = table.loc[("eighth", "dual_teacher")]
    assert (row["n"], row["mean"], row["std"]) == (3, pytest.approx(0.02), pytest.approx(0.01))
    assert (row["low"], row["high"]) == (pytest.approx(0.01), pytest.approx(0.03))
    assert row["differences"] == "0.020000 0.030000 0.010000"
    assert (tables.aggregate(tables.per_seed(known))["difference_low"].dropna() > -0.03).all()


def test_class_gains_are_paired_too_and_unknown_classes_stay_unknown(loaded: Results) -> None:
    def table(run):
        iou = 0.1 * np.arange(5) + 0.05 * run.cell.seed + (0.02 if run.cell.method == "dual_teacher" else 0)
        iou[4] = np.nan
        return run.per_class.assign(iou=iou)

    gains = insight.class_gains(with_runs(loaded, per_class=table), "bluemarble", "quarter")
    assert gains["method"].unique().tolist() == ["dual_teacher"] and len(gains) == 5
    assert gains["mean"][:4].to_numpy() == pytest.approx(0.02) and np.isnan(gains["mean"][4]) and gains["n"][4] == 0


def test_expected_calibration_error_of_known_bins() -> None:
    bins = pd.DataFrame({"pixels": [100, 0, 300], "right": [40, 0, 270], "confidence": [50.0, 0.0, 285.0]})
    assert insight.error(bins) == pytest.approx((10 + 15) / 400)
    assert np.isnan(insight.error(bins.assign(pixels=0)))


def test_calibration_has_a_row_for_each_run(loaded: Results) -> None:
    table = insight.calibration(loaded)
    assert len(table) == len(loaded.runs)
    assert table["ece"].to_numpy() == pytest.approx(table["confidence"] - table["accuracy"], abs=1e-3)


def test_the_hardest_images_are_those_with_the_lowest_mean_over_methods(loaded: Results) -> None:
    scores = {"supervised": [0.5, 0.2, 0.9], "mean_teacher": [0.1, 0.4, 0.9], "dual_teacher": [0.6, 0.3, 0.3]}

    def table(run):
        shift = 0.01 * (run.cell.seed - 1)
        return run.per_image.assign(miou=np.array(scores[run.cell.method]) + shift)

    found = insight.hardest(with_runs(loaded, per_image=table), "bluemarble", "eighth")
    assert found.drop_duplicates("image_id")["image_id"].tolist() == ["tile 1", "tile 0", "tile 2"]
    first = found[found["rank"] == 1].set_index("method")
    assert first["mean"].iloc[0] == pytest.approx(0.3) and first.loc["dual_teacher", "miou"] == pytest.approx(0.3)


def test_alarms_reach_the_table_the_csv_and_the_words(loaded: Results) -> None:
    alarm = {"name": "one_class", "epoch": 4, "step": 50, "text": "one class takes 99.0% …"}

    def alarms(run):
        cell = run.cell
        return [alarm] if (cell.method, cell.seed, cell.partition) == ("dual_teacher", 1, "eighth") else []

    warned = with_runs(loaded, alarms=alarms)
    assert insight.alarms(warned).to_numpy().tolist() == [
        ["bluemarble", "eighth", "dual_teacher", 1, "one_class", 4, 50, alarm["text"]]
    ]
    assert insight.alarms(loaded).empty
    seeds = tables.per_seed(warned)
    table = tables.aggregate(seeds).set_index(["partition", "method"])
    assert table.loc[("eighth", "dual_teacher"), "alarms"] == "one_class"
    remarks = sentences.read(seeds[seeds["partition"] == "eighth"], "supervised").remarks
    assert remarks[0].startswith("Alarm: training showed signs of collapse in Dual Teacher seed 1 (one_class)")
    assert not any(
        "Alarm" in text for text in sentences.read(seeds[seeds["partition"] == "quarter"], "supervised").remarks
    )


def test_a_bound_stands_in_the_table_and_in_the_words_and_is_no_rival(loaded: Results) -> None:
    seeds = tables.per_seed(loaded)
    rows = dict(zip(tables.HEADER, tables.for_people(tables.aggregate(seeds))[-1], strict=True))
    assert rows["method"] == "Supervised (bound)" and rows["labelled"] == "772" and rows["Δ mIoU"] == tables.NONE
    found = build._findings(loaded, seeds)
    assert len(found["findings"]) == 2
    remarks = " ".join(found["shared_remarks"] + [text for one in found["findings"] for text in one["remarks"]])
    assert "Bound: Supervised on partition full (772 labelled images) reaches" in remarks
    assert loaded.fields == [("bluemarble", "eighth"), ("bluemarble", "quarter")]
    assert list(loaded.by_method("bluemarble", "eighth")) == ["supervised", "dual_teacher", "mean_teacher"]


def test_held_out_selection_is_said_and_never_averaged_with_the_last_epoch(loaded: Results, tmp_path, monkeypatch):
    picked = with_runs(
        loaded,
        metrics=lambda run: run.metrics | {"selected": "held_out", "selected_epoch": 4},
        provenance=lambda run: run.provenance | {"held_out": 12},
    )
    seeds = tables.per_seed(picked)
    row = dict(zip(tables.HEADER, tables.for_people(tables.aggregate(seeds))[0], strict=True))
    assert row["epoch"] == "held-out best" and row["labelled"] == "96–100 (12 held out)"
    remarks = " ".join(sentences.read(seeds[seeds["partition"] == "eighth"], "supervised").remarks)
    assert "picked on labelled images held out" in remarks and "the last epoch" not in remarks

    settings = make_tree(tmp_path, parameters(method=["supervised", "dual_teacher"]))
    monkeypatch.chdir(tmp_path)
    path = paths.Cell("bluemarble", "eighth", "supervised", 1).metrics
    path.write_text(json.dumps(json.loads(path.read_text()) | {"selected": "held_out"}))
    with pytest.raises(UserError, match="epoch choice is held_out, but last"):
        results.load(settings)


def test_figures_say_what_they_show_and_draw_nothing_without_data(loaded: Results) -> None:
    runs = loaded.by_method("bluemarble", "eighth")
    colors = dict.fromkeys(runs, "#5d6673")
    titles = [panel.title for panel in insight_figures.calibration("c", runs, colors).panels]
    assert titles == ["Supervised: ECE 7.5 %", "Dual Teacher: ECE 7.5 %", "Mean Teacher: ECE 7.5 %"]
    assert "expected calibration error 7.5 %" in insight_figures.calibrated("supervised", runs["supervised"])
    blind = with_runs(loaded, calibration=lambda run: run.calibration.assign(pixels=0, right=0, confidence=0.0))
    runs = blind.by_method("bluemarble", "eighth")
    assert insight_figures.calibration("c", runs, colors).panels == []
    assert insight_figures.calibrated("supervised", runs["supervised"]) == ""
    unseen = with_runs(loaded, snapshots=lambda run: run.snapshots[:0])
    assert insight_figures.snapshots("s", unseen.by_method("bluemarble", "eighth"), "bluemarble", []).panels == []


def test_pseudo_labels_without_masks_to_compare_with_have_no_accuracy(loaded: Results) -> None:
    unknown = {"probe_coverage": 0.25, "probe_accuracy": np.nan, "probe_accuracy_all": np.nan}
    runs = with_runs(loaded, history=lambda run: run.history.assign(**unknown)).runs
    told = sentences.pseudo_labels("dual_teacher", runs)
    assert "25.0 % of the probe pixels are kept" in told and "—" not in told and "nan" not in told


def test_pseudo_labels_of_methods_without_a_teacher_are_drawn(loaded: Results) -> None:
    def history(run):
        return run.history.assign(teacher=np.nan, distance_active=np.nan, distance_waiting=np.nan)

    runs = with_runs(loaded, history=history).by_method("bluemarble", "eighth")
    colors = dict.fromkeys(runs, "#5d6673")
    figure = figures._pseudo_labels("p", runs, colors)
    assert any("Correct on the probe" in panel.title for panel in figure.panels)
    assert [label for label, _, _ in figure.legend] == ["Dual Teacher", "Mean Teacher"]


def test_masks_take_their_classes_colours_and_unknown_pixels_none(loaded: Results) -> None:
    picture = insight_figures.colored(np.array([[0, 255]], np.uint8), loaded.classes["bluemarble"])
    assert picture[0, 0].tolist() == [52, 101, 164, 255] and picture[0, 1, 3] == 0


def test_the_written_tables(made: Path) -> None:
    """`made`: the report on two seeds, where there is no interval."""
    folder = made / "results/report"
    comparisons = pd.read_csv(folder / "comparisons.csv")
    assert comparisons["n"].tolist() == [2, 2] and comparisons["low"].isna().all()
    assert list(pd.read_csv(folder / "alarms.csv")) == insight.ALARMS
    assert "n < 3" in (folder / "table.md").read_text(encoding="utf-8")
    assert len(pd.read_csv(folder / "class_gains.csv")) == 2 * 5
