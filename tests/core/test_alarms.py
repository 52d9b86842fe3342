"""Alarms on made-up histories: each rule fires where it should, and nowhere else."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest

from dualteacher.commands import status
from dualteacher.training import alarms, watch
from dualteacher.training.alarms import Context, check, with_names

STEPS = 200  # 20 epochs of 10
RUN = Context(STEPS, thresholded=True)


def history(**columns: list[Any]) -> list[dict[str, Any]]:
    """An ordinary run of 20 epochs in which the first values of some columns are replaced."""
    rows = []
    for epoch in range(20):
        judged = epoch % 5 == 4
        rows.append(
            {
                **{
                    "epoch": epoch,
                    "step": 10 * (epoch + 1),
                    "learning_rate": 2e-4 * (1 - epoch / 22),
                    "loss": 1.5 - 0.05 * epoch,
                    "skipped": 0,
                },
                **{"loss_supervised": 1.0, "loss_mix": 0.5, "loss_consistency": math.nan, "kept": 0.3 + 0.03 * epoch},
                **{"val_swallowed": 0.2 if judged else math.nan, "probe_accuracy": 0.85, "distance_active": 0.01},
            }
        )
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=False):
            row[name] = value
    return rows


def raised(run: Context = RUN, **columns: list[Any]) -> list[tuple[str, int]]:
    return [(alarm.name, alarm.epoch) for alarm in check(history(**columns), run)]


def test_an_ordinary_run_raises_nothing() -> None:
    assert raised() == []


def test_a_rough_start_raises_nothing() -> None:
    start = [0.0, 0.0, 0.001, 0.004]  # the first fifth of the steps
    copies = [0.0, 0.0, 0.01, 0.0, 0.0]  # of the student, at the first steps of turns
    assert raised(kept=start, distance_active=copies, val_swallowed=[math.nan] * 4 + [1.0]) == []


def judged(miou: list[float], accuracy: list[float], rare: list[float]) -> list[str]:
    """Texts of the alarms of a run with these scores at its four validations; the rare class has its own IoU."""
    columns: dict[str, list[Any]] = {name: [math.nan] * 20 for name in ("val_miou", "val_pixel_accuracy")}
    columns["val_class_iou"] = [[]] * 20
    for place, (score, right, iou) in enumerate(zip(miou, accuracy, rare, strict=True)):
        columns["val_miou"][5 * place + 4] = score
        columns["val_pixel_accuracy"][5 * place + 4] = right
        columns["val_class_iou"][5 * place + 4] = [0.8, iou, math.nan]
    run = Context(STEPS, thresholded=True)
    found = check(history(**columns), run)
    assert {alarm.name for alarm in found} <= {"unlearning"}
    return [alarm.text for alarm in found]


def test_classes_that_are_unlearnt_are_named() -> None:
    (text,) = judged([0.42, 0.45, 0.43, 0.42], [0.80, 0.81, 0.82, 0.83], [0.20, 0.25, 0.18, 0.10])
    assert with_names(text, ["road", "pole", "nowhere"]) == (
        "since epoch 9 mIoU fell from 45.0% to 42.0% while pixel accuracy rose from 81.0% to 83.0%;"
        " classes that lost IoU: pole (25.0% to 10.0%)"
    )
    assert "lost IoU: class 1 (25.0%" in text, "alarms.json has no names, which may change"


def test_a_fall_of_everything_or_for_once_is_no_unlearning() -> None:
    assert judged([0.45, 0.40, 0.40, 0.40], [0.80, 0.78, 0.78, 0.78], [0.2] * 4) == []
    assert judged([0.45, 0.40, 0.46, 0.41], [0.80, 0.81, 0.82, 0.83], [0.2] * 4) == []
    assert judged([0.45, 0.445, 0.443, 0.444], [0.80, 0.81, 0.82, 0.83], [0.2] * 4) == []


@pytest.mark.parametrize(
    ("columns", "alarm"),
    [
        ({"loss": [1.0, math.nan]}, ("not_a_number", 1)),
        ({"loss_mix": [0.5, 0.5, math.inf]}, ("not_a_number", 2)),
        ({"skipped": [0, 0, 0, 1]}, ("skipped", 3)),
        ({"kept": [0.3] * 5 + [0.004] * 4}, ("coverage_low", 7)),
        ({"kept": [0.002] * 20}, ("coverage_low", 6)),  # from the fifth epoch on three in a row
        ({"kept": [0.5] * 4 + [0.995] * 16}, ("coverage_high", 6)),  # 85 % of them right
        ({"kept": [0.5] * 4 + [1.0] * 16, "probe_accuracy": [math.nan] * 20}, ("coverage_high", 6)),
        ({"val_swallowed": ([math.nan] * 4 + [0.99]) * 4}, ("one_class", 9)),
        ({"distance_active": [0.01] * 3 + [1e-8] * 17}, ("teacher_is_student", 5)),
    ],
)
def test_a_collapse_raises_its_alarm_once(columns: dict[str, list[Any]], alarm: tuple[str, int]) -> None:
    assert raised(**columns) == [alarm]


def test_what_stops_in_between_starts_anew() -> None:
    assert raised(kept=[0.3] * 5 + [0.001, 0.001, 0.3] * 5) == []
    assert raised(val_swallowed=[math.nan] * 4 + [0.99] + [math.nan] * 4 + [0.2]) == []


def test_a_teacher_that_stands_still_with_its_student_at_the_end_is_ordinary() -> None:
    assert raised(distance_active=[0.01] * 17 + [1e-8] * 3) == [
        ("teacher_is_student", 19)
    ]  # the rate is still high enough
    decayed = [2e-4] * 17 + [1e-5] * 3
    assert raised(distance_active=[0.01] * 17 + [1e-8] * 3, learning_rate=decayed) == []


def test_full_coverage_that_is_right_is_a_success() -> None:
    assert raised(kept=[1.0] * 20, probe_accuracy=[0.97] * 20) == []


def test_coverage_is_judged_by_the_last_check_of_the_probe() -> None:
    full, none = [1.0] * 20, [math.nan]
    assert raised(kept=full, probe_accuracy=none * 20, probe_coverage=none * 20) == [("coverage_high", 2)]
    probed = Context(STEPS, thresholded=True, probed=True)
    assert raised(probed, kept=full, probe_accuracy=none * 20, probe_coverage=none * 20) == []
    at = {"probe_coverage": none * 4 + [1.0] + none * 15}
    assert raised(probed, kept=full, probe_accuracy=none * 4 + [0.97] + none * 15, **at) == []
    for right in (0.85, math.nan):  # NaN: images without masks
        wrong = none * 4 + [right] + none * 15
        assert raised(probed, kept=full, probe_accuracy=wrong, **at) == [("coverage_high", 6)]


def test_a_method_without_a_threshold_is_not_judged_by_coverage() -> None:
    assert raised(Context(STEPS, thresholded=False), kept=[1.0] * 20, probe_accuracy=[0.5] * 20) == []


def test_methods_without_teacher_or_pseudo_labels_are_judged_by_the_rest() -> None:
    none = [math.nan] * 20
    assert raised(kept=none, probe_accuracy=none, distance_active=none, loss_mix=none) == []
    assert raised(kept=none, distance_active=none, loss=[math.nan]) == [("not_a_number", 0)]


def test_alarms_come_by_step_and_part_of_a_history_gives_the_first_of_them() -> None:
    rows = history(kept=[0.3] * 9 + [0.001] * 11, distance_active=[0.0] * 20)
    both = check(rows, RUN)
    assert [alarm.name for alarm in both] == ["teacher_is_student", "coverage_low"]
    assert check(rows[:5], RUN) == both[:1] and check(rows[:2], RUN) == []


def test_the_log_has_each_alarm_once_even_after_an_interruption(caplog: pytest.LogCaptureFixture) -> None:
    import torch

    rows = history(distance_active=[0.0] * 20)
    told = watch.Watch("train toy", 0, STEPS, 8, torch.device("cpu"))
    with caplog.at_level(logging.WARNING):
        for end in range(1, len(rows)):
            told.warn(check(rows[:end], RUN))
        again = watch.Watch("train toy", 100, STEPS, 8, torch.device("cpu"))
        again.warned = check(rows[:10], RUN)
        again.warn(check(rows, RUN))
    assert [record.getMessage() for record in caplog.records if "alarm" in record.getMessage()] == [
        "train toy: alarm teacher_is_student at epoch 2: the teacher equals the student (relative distance 0.0e+00)"
    ]


def test_status_names_the_alarms_of_a_done_cell(tmp_path, monkeypatch) -> None:
    from dualteacher.system import paths

    monkeypatch.chdir(tmp_path)
    cell = paths.Cell("toy", "some", "fixmatch", 0)
    cell.folder.mkdir(parents=True)
    cell.student.write_bytes(b"weights")
    cell.metrics.write_text('{"miou": 0.25}')
    found = [{"name": alarm.name} for alarm in check(history(loss=[math.nan]), RUN)]
    cell.alarms.write_text(json.dumps({"alarms": found}))
    assert status.look(cell).words == "mIoU 0.2500, alarm: not_a_number"
    cell.alarms.unlink()
    assert status.look(cell).words == "mIoU 0.2500"


def test_thresholds_are_explained() -> None:
    assert alarms.__doc__ is not None
    assert all(f"- {rule.name}:" in alarms.__doc__ for rule in alarms.RULES)
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| [^|]*\|$", page, re.MULTILINE)[-len(alarms.RULES) :] == [
        r.name for r in alarms.RULES
    ]
