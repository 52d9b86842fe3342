"""A run is reproducible to the byte, goes on after an interruption as if nothing had happened, and says no to NaN."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dualteacher.data import partition
from dualteacher.data.pack import Pack
from dualteacher.methods.supervised import Supervised
from dualteacher.models import named, saved, segmenter
from dualteacher.settings import Settings
from dualteacher.stages import evaluate, train, warmup
from dualteacher.system import paths
from dualteacher.system.console import logger
from dualteacher.system.errors import Interrupted, UserError
from dualteacher.training import checkpoint, loop
from dualteacher.training.checkpoint import Mark, Store, mark_of
from dualteacher.training.job import steps_per_epoch, total_steps
from dualteacher.training.optimizer import rate_factor

from .conftest import ROOT, prepare, stopped_at, toy_settings, without_norm

CELL = ("toy", "some", "dual_teacher", 0)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Settings:
    """A folder with prepared data, a partition and empty backbone weights."""
    monkeypatch.chdir(tmp_path)
    settings = toy_settings()
    prepare(settings)
    return settings


def run_all(settings: Settings, method: str = "dual_teacher") -> dict[str, str]:
    """Warm-up, training, evaluation; the hashes of what must be reproducible."""
    warmup.run(settings, "toy", "some", 0)
    train.run(settings, "toy", "some", method, 0)
    evaluate.run(settings, "toy", "some", method, 0)
    return hashes(method)


def hashes(method: str = "dual_teacher") -> dict[str, str]:
    cell = paths.Cell("toy", "some", method, 0)
    wanted = (
        cell.warmup.student,
        cell.student,
        cell.history,
        cell.metrics,
        cell.per_class,
        cell.per_image,
        cell.calibration,
        cell.snapshots,
        cell.alarms,
        cell.confusion,
        cell.gallery,
        cell.pictures,
    )
    return {path.name + path.parts[4]: hashlib.sha256(path.read_bytes()).hexdigest() for path in wanted}


@pytest.mark.slow
def test_the_same_settings_give_the_same_bytes(project):
    first = run_all(project)
    for path in paths.RUNS.rglob("*.*"):
        path.unlink()
    assert run_all(project) == first
    other = toy_settings(train={"learning_rate": 0.001})
    changed = run_all(other)
    assert changed["student.safetensorswarmup"] == first["student.safetensorswarmup"]
    assert changed["student.safetensorsdual_teacher"] != first["student.safetensorsdual_teacher"]


def averaged(settings: Settings, weights: str = "average") -> Settings:
    """These settings with other evaluate.weights."""
    return settings.model_copy(
        update={"evaluate": settings.evaluate.model_copy(update={"weights": weights})},
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["supervised", "dual_teacher"])
def test_the_average_of_the_students_is_what_is_kept(project, method, monkeypatch):
    """The kept weights are the moving average of those that the same run passes through."""
    seen, original = [], loop.step

    def step(job, *rest):
        parts = original(job, *rest)
        seen.append({key: value.detach().clone() for key, value in job.student.state_dict().items()})
        return parts

    monkeypatch.setattr(loop, "step", step)
    cell = paths.Cell("toy", "some", method, 0)
    run_all(project, method)
    last = saved.load(cell.student)[0].state_dict()
    plain, seen[:] = list(seen), []
    run_all(averaged(project), method)
    kept = saved.load(cell.student)[0].state_dict()
    steps = seen[-6:]  # after those of the warm-up, if it ran again
    for key, value in kept.items():
        assert torch.equal(steps[-1][key], plain[-1][key]) and torch.equal(last[key], plain[-1][key])
        if value.is_floating_point():
            expected = steps[0][key]
            for number, one in enumerate(steps[1:], 1):
                expected = torch.lerp(expected, one[key], 1 / (number + 1))  # 1 - 1/(step + 1) is kept
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


def test_the_mean_of_the_teachers_is_what_is_kept(project, monkeypatch):
    jobs, run = [], loop.run
    monkeypatch.setattr(loop, "run", lambda job: (jobs.append(job), run(job))[1])
    run_all(averaged(project, "teachers"), "dual_teacher")
    kept = saved.load(paths.Cell("toy", "some", "dual_teacher", 0).student)[0].state_dict()
    teachers = [teacher.state_dict() for teacher in jobs[-1].method.teachers]
    assert not torch.equal(*(teacher["head.classifier.weight"] for teacher in teachers))
    for key, value in kept.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (teachers[0][key] + teachers[1][key]) / 2, rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="supervised has no teachers"):
        train.run(averaged(project, "teachers"), "toy", "some", "supervised", 0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["supervised", "mean_teacher", "dual_teacher", "dual_teacher_balanced"])
def test_resume_at_every_step_is_exact(project, method):
    """Stop a run after each step in turn; what it then finishes is the undisturbed run's bytes."""
    if method == "dual_teacher_balanced":  # running sums and the moving average are saved too
        project = averaged(project)
    expected = run_all(project, method)
    eager = project.model_copy(update={"runtime": project.runtime.model_copy(update={"checkpoint_minutes": 0.0})})
    for stop in (1, 3, 4):
        for path in (paths.Cell("toy", "some", method, 0).student, paths.Cell("toy", "some", method, 0).history):
            path.unlink()
        with stopped_at(stop + 1):
            train.run(eager, "toy", "some", method, 0)
        assert list(paths.CHECKPOINTS.rglob(f"step{stop:09d}.pt"))
        train.run(project, "toy", "some", method, 0)
        evaluate.run(project, "toy", "some", method, 0)
        assert hashes(method) == expected
        assert not list(paths.CHECKPOINTS.rglob("*.pt"))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("run", {"parameters": {}}, 5)
    for step in (1, 2, 3):
        store.save(step, {"step": step, "value": torch.ones(3) * step})
    kept = sorted(store.folder.glob("*.pt"))
    assert [path.name for path in kept] == ["step000000002.pt", "step000000003.pt"]
    kept[-1].write_bytes(kept[-1].read_bytes()[:100])
    assert store.load(torch.device("cpu"))["step"] == 2
    kept[0].write_bytes(b"")
    assert store.load(torch.device("cpu")) is None


def mark(**changes: str) -> Mark:
    parts = {"parameters": {"train": {"learning_rate": 0.1}}, "inputs": {"val.arrow": "1"}}
    parts |= {"sources": {"core/ema.py": "1"}, "torch": {"torch": "2.0"}}
    return parts | {part: dict.fromkeys(names.split(), "changed") for part, names in changes.items()}


def test_other_parameters_never_resume_an_old_run(tmp_path, monkeypatch, caplog):
    """The old run's checkpoint may be days of work: it stays, and the log says why it does not fit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "handlers", [])  # those that other tests have left
    old = Store("it's a run", mark(), 5)
    old.save(1, {"step": 1})
    for changes in ({"parameters": "train"}, {"inputs": "val.arrow"}, {"sources": "core/ema.py"}, {"torch": "torch"}):
        caplog.clear()
        new = Store("it's a run", mark(**changes), 5)
        assert new.load(torch.device("cpu")) is None
        (line,) = caplog.messages
        assert line.startswith(
            f"{old.folder}: checkpoint kept but not used (0.00 GB), made with other {next(iter(changes))} ("
        )
        assert line.endswith(f"rm -r {shlex.quote(str(old.folder))}") and "\n" not in line
    new.save(1, {"step": 1})
    new.finish([])
    assert list(paths.CHECKPOINTS.rglob("*.pt")) == [old.folder / "step000000001.pt"]
    assert "keeping checkpoints of other runs (1, " in caplog.messages[-1]
    (old.folder / "mark.json").unlink()
    Store("it's a run", mark(torch="torch"), 5)
    assert "no readable mark.json" in caplog.messages[-1]
    assert Store("it's a run", mark(), 5).load(torch.device("cpu"))["step"] == 1


def test_the_mark_takes_the_stage_s_sources_and_names_what_differs(project, tmp_path, monkeypatch, caplog):
    """An edited docstring of the report leaves a paused run's checkpoints valid; an edited loss does not."""
    data = Path(shutil.copytree(ROOT / "dualteacher", tmp_path / "site" / "dualteacher"))
    monkeypatch.setattr(checkpoint, "__file__", str(data / "training" / "checkpoint.py"))
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "handlers", [])  # those that other tests have left

    network = segmenter.build(project.model, 3, None, drop_path=0.0)

    def store() -> Store:
        return Store("run", mark_of({}, [], "train", Supervised(None, project, network)), 5)

    store().save(7, {"step": 7})
    with open(data / "reporting" / "statistics.py", "a", encoding="utf-8") as file:
        file.write("# edited\n")
    assert store().load(torch.device("cpu"))["step"] == 7 and not caplog.messages
    with open(data / "core" / "losses.py", "a", encoding="utf-8") as file:
        file.write("# edited\n")
    assert store().load(torch.device("cpu")) is None
    assert "other sources (dualteacher/core/losses.py);" in caplog.messages[-1]


def spoil(monkeypatch, mix: str = "classmix"):
    """Make the ClassMix loss, which is due from step 2 on, not a number."""
    from dualteacher.methods import teaching

    monkeypatch.setitem(teaching.MIX_LOSS, mix, lambda logits, *_, **__: logits.sum() * float("nan"))


def test_a_loss_that_is_not_a_number_ends_the_run_in_one_line(project, monkeypatch):
    warmup.run(project, "toy", "some", 0)
    spoil(monkeypatch)
    with pytest.raises(UserError, match="step 2: the loss or a gradient is NaN or infinite") as caught:
        train.run(project, "toy", "some", "dual_teacher", 0)
    text = str(caught.value)
    assert "\n" not in text and "loss_mix nan" in text and text.count("image0") == 4  # two labelled, two unlabelled
    assert not paths.Cell(*CELL).student.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("every", "step", "kept"), [(1, 3, [1, 2]), (None, 6, [])])
def test_steps_that_are_not_checked_leave_no_nan(project, monkeypatch, every, step, kept):
    """On a GPU most steps are not: neither a checkpoint nor the end keeps weights that are NaN."""
    warmup.run(project, "toy", "some", 0)
    spoil(monkeypatch)
    monkeypatch.setattr(loop, "checked_every_step", lambda job: False)
    runtime = project.runtime.model_copy(update={"checkpoint_steps": every})
    with pytest.raises(UserError, match=f"step {step}: a weight is NaN or infinite; lower train.learning_rate"):
        train.run(project.model_copy(update={"runtime": runtime}), "toy", "some", "dual_teacher", 0)
    assert not paths.Cell(*CELL).student.exists()
    assert sorted(path.name for path in paths.CHECKPOINTS.rglob("step*")) == [f"step{n:09d}.pt" for n in kept]


@pytest.mark.slow
def test_bad_batches_can_be_left_out_and_are_counted(project, monkeypatch):
    warmup.run(project, "toy", "some", 0)
    spoil(monkeypatch)
    skipping = project.model_copy(update={"optimizer": project.optimizer.model_copy(update={"bad_batch": "skip"})})
    train.run(skipping, "toy", "some", "dual_teacher", 0)
    history = pd.read_parquet(paths.Cell(*CELL).history)
    assert history["skipped"].tolist() == [0, 2, 0]  # ClassMix's epoch
    assert history["loss"].notna().all()
    model, _ = saved.load(paths.Cell(*CELL).student)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.slow
def test_a_finished_run_is_not_done_again_by_hand(project, monkeypatch):
    expected = run_all(project)
    monkeypatch.setattr(loop, "run", lambda job: pytest.fail("trained again"))
    train.run(project, "toy", "some", "dual_teacher", 0)
    assert hashes() == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_and_the_run_goes_on_exactly(project, monkeypatch, number):
    expected = run_all(project)
    for path in (paths.Cell(*CELL).student, paths.Cell(*CELL).history):
        path.unlink()
    original = loop.step

    def step(job, networks, optimizer, batch, clock):
        if clock.step == 2:
            os.kill(os.getpid(), number)
        return original(job, networks, optimizer, batch, clock)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", step)
        with pytest.raises(Interrupted, match="at step 3 of 6; the same"):
            train.run(project, "toy", "some", "dual_teacher", 0)
    assert list(paths.CHECKPOINTS.rglob("step000000003.pt"))
    train.run(project, "toy", "some", "dual_teacher", 0)
    evaluate.run(project, "toy", "some", "dual_teacher", 0)
    assert hashes() == expected


def test_out_of_memory_says_what_to_lower(project, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(loop, "step", full)
    with pytest.raises(UserError, match=r"raise batch\.groups and batch\.accumulate") as caught:
        warmup.run(project, "toy", "some", 0)
    assert "\n" not in str(caught.value) and "2.00 GiB" in str(caught.value)


def test_one_value_for_batch_normalisation_says_what_to_raise(project, monkeypatch):
    """A backbone may be coarser than the settings can know."""
    monkeypatch.setattr(loop, "step", lambda *_: torch.nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1)))
    with pytest.raises(UserError, match=r"batch.labelled = 2.* raise the batch or the crop"):
        warmup.run(project, "toy", "some", 0)


def curves(settings: Settings, method: str) -> pd.DataFrame:
    for path in [*paths.RUNS.rglob("*.*")]:
        path.unlink()
    warmup.run(settings, "toy", "some", 0)
    train.run(settings, "toy", "some", method, 0)
    return pd.read_parquet(paths.Cell("toy", "some", method, 0).history)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["supervised", "dual_teacher", "unimatch", "unimatch_v2", "cps"])
def test_the_same_groups_in_more_passes_give_the_same_loss_curve(project, monkeypatch, method):
    """Without batch normalisation and dropout, how the groups are spread over passes cannot matter."""
    without_norm(monkeypatch)
    quiet = project.model.model_copy(update={"dropout": 0.0, "drop_path": 0.0})
    batch = project.batch.model_copy(update={"labelled": 4, "unlabelled": 4, "groups": 2})
    unimatch = project.methods["unimatch"].model_copy(update={"feature_dropout": 0.0})
    methods_ = project.methods | {"unimatch": unimatch}
    one = project.model_copy(update={"model": quiet, "batch": batch, "methods": methods_})
    two = one.model_copy(update={"batch": batch.model_copy(update={"accumulate": 2})})
    whole, pieces = curves(one, method), curves(two, method)
    for column in ("loss", "loss_supervised", "val_miou"):
        np.testing.assert_allclose(whole[column], pieces[column], rtol=1e-5, atol=1e-6)


def test_history_and_weights_say_what_was_done(project):
    run_all(project)
    cell = paths.Cell(*CELL)
    history = pd.read_parquet(cell.history)
    assert list(history["step"]) == [2, 4, 6] and list(history["epoch"]) == [0, 1, 2]  # 5 labelled, 2 a step
    assert list(history["mix"]) == ["cutmix", "classmix", "cutmix"] and list(history["teacher"]) == [0, 1, 0]
    assert history["val_miou"].notna().tolist() == [False, True, True]
    assert history[["distance_active", "distance_waiting"]].notna().all(axis=None)
    probed = history[["probe_coverage", "probe_accuracy_all", "disagreement_active"]].notna()
    assert probed.eq(history["val_miou"].notna(), axis=0).all(axis=None)
    # judged at an epoch's end, just after its second step: the active teacher is near, the waiting one further
    assert (history["distance_active"] < history["distance_waiting"]).all()
    metrics = json.loads(cell.metrics.read_text())
    assert metrics["miou"] == pytest.approx(history["val_miou"].iloc[-1])
    assert metrics["best_miou"] == pytest.approx(history["val_miou"].max())
    model, description = saved.load(cell.student)
    assert description["cell"]["method"] == "dual_teacher" and description["steps"] == 6
    assert "classes" not in description, "names must not reach the weights, or a new name trains anew"
    assert [c["name"] for c in named.load(cell.student)[1]["classes"]] == ["ground", "disc", "bar"]
    assert model(torch.rand(1, 3, 32, 32)).shape[1] == 3
    cost = json.loads(cell.cost.read_text())
    assert cost["student_images"] == 6 * (2 + 2 + 2) and cost["teacher_images"] == 6 * 2


def test_warmup_of_no_steps_is_the_start_itself(project):
    settings = project.model_copy(update={"warmup": project.warmup.model_copy(update={"steps": 0})})
    warmup.run(settings, "toy", "some", 0)
    assert len(pd.read_parquet(paths.Cell(*CELL).warmup.history)) == 0
    train.run(settings, "toy", "some", "supervised", 0)
    assert paths.Cell("toy", "some", "supervised", 0).student.exists()


def test_learning_rate_follows_the_schedule(project):
    settings = toy_settings(optimizer={"ramp_steps": 2, "ramp_ratio": 0.1, "power": 0.9})
    rates = [rate_factor(settings.optimizer, step, 10) for step in range(10)]
    assert rates[:2] == pytest.approx([0.1, 0.55])
    assert rates[2:] == pytest.approx([(1 - s / 10) ** 0.9 for s in range(2, 10)])
    assert rate_factor(settings.optimizer.model_copy(update={"horizon": 20}), 10, 10) == pytest.approx(0.5**0.9)


def test_everything_labelled_leaves_nothing_for_a_teacher(project):
    pack = Pack(paths.Dataset("toy").train)
    masked = pack.ids[:12]
    warmup.run(project, "toy", "some", 0)
    partition.write(paths.Partition("toy", "some", 0).table, masked, masked)
    with pytest.raises(UserError, match="needs unlabelled images"):
        train.run(project, "toy", "some", "dual_teacher", 0)
    train.run(project, "toy", "some", "supervised", 0)


def test_a_labelled_image_without_a_mask_is_refused(project):
    pack = Pack(paths.Dataset("toy").train)
    partition.write(paths.Partition("toy", "some", 0).table, pack.ids, pack.ids[-1:])
    with pytest.raises(UserError, match="has no mask for it"):
        warmup.run(project, "toy", "some", 0)


def test_epochs_count_passes_over_the_labelled_or_the_unlabelled_images():
    settings = toy_settings(
        batch={"labelled": 8, "unlabelled": 16}, train={"steps": None, "epochs": 3, "epochs_of": "unlabelled"}
    )
    unlabelled, batch = settings.train, settings.batch
    labelled = unlabelled.model_copy(update={"epochs_of": "labelled"})
    assert [steps_per_epoch(labelled, batch, count, 900) for count in (631, 3, 8)] == [78, 1, 1]
    assert [steps_per_epoch(unlabelled, batch, 631, count) for count in (900, 5, 0)] == [56, 1, 78]
    assert steps_per_epoch(settings.warmup, batch, 631, 900) == 78
    assert total_steps(unlabelled, 56) == 168 and total_steps(settings.warmup, 56) == settings.warmup.steps


@pytest.mark.slow
def test_epochs_over_the_unlabelled_images_are_the_same_for_every_method(project):
    """Nine unlabelled images, two a step, so four steps an epoch; five labelled ones would make two."""
    lengths = {"steps": None, "epochs": 2, "epochs_of": "unlabelled", "validate_every": 1}
    counted = project.model_copy(update={"train": project.train.model_copy(update=lengths)})
    histories = [curves(counted, name) for name in ("supervised", "dual_teacher")]
    for history in histories:
        assert list(history["step"]) == [4, 8] and list(history["epoch"]) == [0, 1]
    assert list(histories[1]["teacher"]) == [0, 1] and list(histories[1]["mix"]) == ["cutmix", "classmix"]
