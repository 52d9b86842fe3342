"""A run is reproducible to the byte, goes on after an interruption as if nothing had happened, and says no to NaN."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dualteacher import paths
from dualteacher.data import partition
from dualteacher.data.pack import Pack
from dualteacher.errors import UserError
from dualteacher.models import saved
from dualteacher.settings import Settings
from dualteacher.stages import evaluate, train, warmup
from dualteacher.training import loop
from dualteacher.training.checkpoint import Store

from .conftest import toy_settings, write_pack

CELL = ("toy", "some", "dual_teacher", 0)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Settings:
    """A folder with prepared data, a partition and empty backbone weights."""
    monkeypatch.chdir(tmp_path)
    settings = toy_settings()
    dataset = paths.Dataset("toy")
    write_pack(dataset.train, 14, seed=1, unmasked=2)
    write_pack(dataset.val, 4, seed=2)
    pack = Pack(dataset.train)
    partition.write(paths.Split("toy", "some", 0).table, pack.ids, pack.ids[:5])
    from dualteacher.models import weights

    weights.prepare_backbone(settings.model, Path("nothing"))
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
        cell.confusion,
        cell.gallery,
    )
    return {path.name + path.parts[4]: hashlib.sha256(path.read_bytes()).hexdigest() for path in wanted}


def test_the_same_settings_give_the_same_bytes(project):
    first = run_all(project)
    for path in paths.RUNS.rglob("*.*"):
        path.unlink()
    assert run_all(project) == first
    other = toy_settings(train={"learning_rate": 0.001})
    changed = run_all(other)
    assert changed["student.safetensorswarmup"] == first["student.safetensorswarmup"]
    assert changed["student.safetensorsdual_teacher"] != first["student.safetensorsdual_teacher"]


@pytest.mark.parametrize("method", ["supervised", "mean_teacher", "dual_teacher"])
def test_resume_at_every_step_is_exact(project, method, monkeypatch):
    """Stop a run after each step in turn; what it then finishes is the undisturbed run's bytes."""
    expected = run_all(project, method)
    eager = project.model_copy(update={"runtime": project.runtime.model_copy(update={"checkpoint_minutes": 0.0})})
    original = loop.checkpoint

    class Stop(Exception):
        pass

    for stop in (1, 3, 4):

        def interrupt(job, optimizer, progress, stop=stop):
            if progress.step == stop + 1:
                raise Stop
            return original(job, optimizer, progress)

        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(loop, "checkpoint", interrupt)
            train.run(eager, "toy", "some", method, 0)
        assert list(paths.CHECKPOINTS.rglob(f"step{stop:09d}.pt"))
        train.run(project, "toy", "some", method, 0)
        evaluate.run(project, "toy", "some", method, 0)
        assert hashes(method) == expected
        assert not paths.CHECKPOINTS.exists()


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("run", "a" * 64, 5)
    for step in (1, 2, 3):
        store.save(step, {"step": step, "value": torch.ones(3) * step})
    kept = sorted(store.folder.glob("*.pt"))
    assert [path.name for path in kept] == ["step000000002.pt", "step000000003.pt"]
    kept[-1].write_bytes(kept[-1].read_bytes()[:100])
    assert store.load(torch.device("cpu"))["step"] == 2
    kept[0].write_bytes(b"")
    assert store.load(torch.device("cpu")) is None


def test_other_parameters_never_resume_an_old_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Store("run", "a" * 64, 5).save(1, {"step": 1})
    assert Store("run", "b" * 64, 5).load(torch.device("cpu")) is None
    assert not list(paths.CHECKPOINTS.rglob("*.pt"))  # the stale one is gone


def test_a_loss_that_is_not_a_number_ends_the_run_in_one_line(project, monkeypatch):
    warmup.run(project, "toy", "some", 0)
    from dualteacher.methods import teaching

    monkeypatch.setitem(teaching.MIX_LOSS, "classmix", lambda logits, *_: logits.sum() * float("nan"))
    with pytest.raises(UserError, match="not a number at step 2") as caught:
        train.run(project, "toy", "some", "dual_teacher", 0)
    assert "\n" not in str(caught.value) and "loss_mix nan" in str(caught.value)
    assert not paths.Cell(*CELL).student.exists()


def test_history_and_weights_say_what_was_done(project):
    run_all(project)
    cell = paths.Cell(*CELL)
    history = pd.read_parquet(cell.history)
    assert list(history["step"]) == [2, 4, 6] and list(history["epoch"]) == [0, 1, 2]  # 5 labelled, 2 a step
    assert list(history["mix"]) == ["cutmix", "classmix", "cutmix"] and list(history["teacher"]) == [0, 1, 0]
    assert history["val_miou"].notna().tolist() == [False, True, True]
    probed = ["probe_coverage", "probe_accuracy_all", "distance_active", "distance_waiting", "disagreement_active"]
    assert history[probed].notna().all(axis=None)
    # judged at an epoch's end, just after its second step: the active teacher is near, the waiting one further
    assert (history["distance_active"] < history["distance_waiting"]).all()
    metrics = json.loads(cell.metrics.read_text())
    assert metrics["miou"] == pytest.approx(history["val_miou"].iloc[-1])
    assert metrics["best_miou"] == pytest.approx(history["val_miou"].max())
    model, description = saved.load(cell.student)
    assert description["cell"]["method"] == "dual_teacher" and description["steps"] == 6
    assert [c["name"] for c in description["classes"]] == ["ground", "disc", "bar"]
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
    rates = [loop.rate_factor(settings.optimizer, step, 10) for step in range(10)]
    assert rates[:2] == pytest.approx([0.1, 0.55])
    assert rates[2:] == pytest.approx([(1 - s / 10) ** 0.9 for s in range(2, 10)])
    assert loop.rate_factor(settings.optimizer.model_copy(update={"horizon": 20}), 10, 10) == pytest.approx(0.5**0.9)


def test_everything_labelled_leaves_nothing_for_a_teacher(project):
    pack = Pack(paths.Dataset("toy").train)
    masked = pack.ids[:12]
    warmup.run(project, "toy", "some", 0)
    partition.write(paths.Split("toy", "some", 0).table, masked, masked)
    with pytest.raises(UserError, match="needs unlabelled images"):
        train.run(project, "toy", "some", "dual_teacher", 0)
    train.run(project, "toy", "some", "supervised", 0)


def test_a_labelled_image_without_a_mask_is_refused(project):
    pack = Pack(paths.Dataset("toy").train)
    partition.write(paths.Split("toy", "some", 0).table, pack.ids, pack.ids[-1:])
    with pytest.raises(UserError, match="holds no mask"):
        warmup.run(project, "toy", "some", 0)


def test_epochs_count_passes_over_the_labelled_images():
    assert loop.steps_per_epoch(631, 8) == 78
    assert loop.steps_per_epoch(3, 8) == 1
    assert np.isclose(loop.steps_per_epoch(8, 8), 1)
