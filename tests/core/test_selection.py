"""Picking the epoch on held-out labelled images, and what training leaves behind for the report."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dualteacher.data import partition
from dualteacher.data.pack import Pack
from dualteacher.evaluation.confusion import ConfusionMatrix
from dualteacher.evaluation.scoring import PerImage, image_scores
from dualteacher.models import saved, weights
from dualteacher.settings import Settings
from dualteacher.stages import evaluate, train, warmup
from dualteacher.system import paths
from dualteacher.training import calibration, loop, run, snapshots

from .conftest import stopped_at, toy_settings, write_pack


def prepare(settings: Settings, held_out: int) -> Pack:
    """Packs and a partition with five images to train on and `held_out` more, in the current folder."""
    dataset = paths.Dataset("toy")
    write_pack(dataset.train, 14, seed=1, unmasked=2)
    write_pack(dataset.val, 4, seed=2)
    pack = Pack(dataset.train)
    table = paths.Partition("toy", "some", 0).table
    partition.write(table, pack.ids, pack.ids[: 5 + held_out], pack.ids[5 : 5 + held_out])
    weights.prepare_backbone(settings.model, Path("nothing"))
    return pack


@pytest.fixture
def project(tmp_path, monkeypatch) -> Settings:
    """Epochs of two steps, each of which is validated; three images are held out."""
    monkeypatch.chdir(tmp_path)
    settings = toy_settings(train={"steps": 8, "validate_every": 1})
    prepare(settings, 3)
    warmup.run(settings, "toy", "some", 0)
    return settings


@pytest.mark.slow
def test_the_weights_are_those_of_the_best_epoch_on_the_held_out_images(project, monkeypatch):
    seen = []
    monkeypatch.setattr(train, "selector", lambda student, *_: lambda: note(student))

    def note(student):
        seen.append({key: value.clone() for key, value in student.state_dict().items()})
        return {"held_out_miou": [0.2, 0.6, 0.6, math.nan][len(seen) - 1]}

    train.run(project, "toy", "some", "fixmatch", 0)
    evaluate.run(project, "toy", "some", "fixmatch", 0)
    where = paths.Cell("toy", "some", "fixmatch", 0)
    model, description = saved.load(where.student)
    state = model.state_dict()
    best, last = (all(torch.equal(state[key], seen[i][key]) for key in state) for i in (1, 3))
    assert best and not last, "the first of equals, and never what is not a number"
    assert description["selected"] == {"by": "held_out", "epoch": 1, "step": 4, "miou": 0.6}
    assert (description["labelled"], description["held_out"]) == (5, 3)
    at_best = pd.read_parquet(where.history).set_index("epoch").loc[1]
    assert description["scores"] == {name: at_best[name] for name in ("val_miou", "val_pixel_accuracy")}
    metrics = json.loads(where.metrics.read_text())
    assert metrics["miou"] == pytest.approx(description["scores"]["val_miou"])
    assert (metrics["selected"], metrics["selected_epoch"], metrics["last_epoch"]) == ("held_out", 1, 3)
    assert "after epoch 1, the best on labelled images held out" in where.model_card.read_text()


@pytest.mark.slow
def test_held_out_images_are_scored_and_never_trained_on(project, monkeypatch):
    data = run.open_data(paths.Cell("toy", "some", "fixmatch", 0))
    held_out = set(data.held_out)
    assert len(held_out) == 3 and not held_out & {*data.labelled, *data.unlabelled}
    taken: set[int] = set()
    original = loop.takes

    def takes(job):
        found = original(job)
        taken.update(item.index for take in found for step in range(job.steps) for item in take.items(step))
        return found

    monkeypatch.setattr(loop, "takes", takes)
    train.run(project, "toy", "some", "fixmatch", 0)
    assert taken and not taken & held_out
    history = pd.read_parquet(paths.Cell("toy", "some", "fixmatch", 0).history)
    assert history["held_out_miou"].between(0, 1).all()


@pytest.mark.slow
def test_resume_keeps_the_best_epoch(project, monkeypatch):
    """Stopped after the best epoch, the run ends in the undisturbed run's bytes."""
    monkeypatch.setattr(train, "selector", lambda student, *_: lambda: {"held_out_miou": score(student)})

    def score(student):
        return -float(sum(p.detach().square().sum() for p in student.parameters()))  # some order of the epochs

    where = paths.Cell("toy", "some", "fixmatch", 0)
    outputs = (where.student, where.history, where.calibration, where.snapshots, where.alarms)
    train.run(project, "toy", "some", "fixmatch", 0)
    expected = [path.read_bytes() for path in outputs]
    history = pd.read_parquet(where.history)
    best = history["held_out_miou"].idxmax()
    stop = max(2 * (int(best) + 1) + 1, 3)  # after the best epoch, in the middle of another, unless it is the last

    for path in outputs:
        path.unlink()
    eager = project.model_copy(update={"runtime": project.runtime.model_copy(update={"checkpoint_minutes": 0.0})})
    with stopped_at(min(stop + 1, 7)):
        train.run(eager, "toy", "some", "fixmatch", 0)
    assert list(paths.CHECKPOINTS.rglob("*.pt"))
    train.run(project, "toy", "some", "fixmatch", 0)
    assert [path.read_bytes() for path in outputs] == expected


@pytest.mark.slow
def test_without_held_out_images_the_last_epoch_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = toy_settings()
    prepare(settings, 0)
    warmup.run(settings, "toy", "some", 0)
    train.run(settings, "toy", "some", "cps", 0)
    where = paths.Cell("toy", "some", "cps", 0)
    model, description = saved.load(where.student)
    assert description["selected"] == {"by": "last", "epoch": 2, "step": 6}
    history = pd.read_parquet(where.history)
    assert history["held_out_miou"].isna().all()
    assert description["scores"]["val_miou"] == history["val_miou"].iloc[-1]
    # two networks are trained, and the partner's labels are those that the student learns
    cost = json.loads(where.cost.read_text())
    own = sum(parameter.numel() for parameter in model.parameters())
    assert cost["parameters"] == 2 * own and (cost["student_images"], cost["teacher_images"]) == (6 * 8, 6 * 4)
    assert cost["steps"] == 6 and cost["seconds"] > 0 and cost["peak_memory_bytes"] > 0
    assert cost["images_per_second"] == pytest.approx(6 * 12 / cost["seconds"], rel=1e-3)
    probed = history[history["val_miou"].notna()]
    assert probed["probe_accuracy_all"].notna().all() and (probed["probe_coverage"] == 1).all()
    assert json.loads(where.alarms.read_text())["alarms"] is not None
    bins = pd.read_parquet(where.calibration)
    assert len(bins) == calibration.BINS and bins["pixels"].sum() > 0
    assert (bins["right"] <= bins["pixels"]).all()
    shots = pd.read_parquet(where.snapshots)
    validations = history["val_miou"].notna().sum()
    assert len(shots) == validations * snapshots.COUNT and shots["image_id"].nunique() == snapshots.COUNT
    shape = np.asarray(Image.open(io.BytesIO(shots["prediction"].iloc[0]))).shape
    assert shape == Pack(paths.Dataset("toy").val).size(1)


# ---------------------------------------------------------------- which images are held out


def images(count: int = 20, blocks: int | None = None) -> partition.ImagePool:
    names = [None] * count if blocks is None else [f"block{i % blocks}" for i in range(count)]
    pixels = np.zeros((count, 3), np.int64)
    pixels[:, 0] = 100
    pixels[3, 1] = pixels[7, 2] = 100  # two classes that one image each shows
    return partition.ImagePool([f"image{i:02d}" for i in range(count)], names, pixels, np.ones(count, bool))


@pytest.mark.parametrize("seed", range(4))
def test_a_share_of_the_labelled_leaves_and_rare_classes_stay(seed: int) -> None:
    of = images()
    labelled = partition.draw(of, seed, count=10).labelled
    held_out = partition.hold_out(of, labelled, seed, 0.3)
    assert len(held_out) == 3 and set(held_out) < set(labelled)
    assert not {"image03", "image07"} & set(held_out)
    assert held_out == partition.hold_out(of, labelled[::-1], seed, 0.3)


def test_blocks_leave_as_a_whole() -> None:
    of = images(blocks=5)  # four images each
    held_out = partition.hold_out(of, list(of.ids), 0, 0.25)
    left = {of.blocks[i] for i, name in enumerate(of.ids) if name in held_out}
    assert len(left) == 1 and len(held_out) == 4


def test_somebody_stays() -> None:
    from dualteacher.system.errors import UserError

    of = images()
    assert len(partition.hold_out(of, list(of.ids[:2]), 0, 0.99)) == 1
    with pytest.raises(UserError, match="the 1 labelled images are a single image; label more"):
        partition.hold_out(of, list(of.ids[:1]), 0, 0.5)


def test_the_stage_writes_the_roles_and_counts_all_labels(tmp_path, monkeypatch):
    from dualteacher.stages import partition as stage

    monkeypatch.chdir(tmp_path)
    some = {"fraction": None, "count": 8, "list": None, "held_out": 0.25}
    settings = toy_settings(partition={"some": some, "whole": some | {"held_out": None}})
    dataset = paths.Dataset("toy")
    pack = Pack(write_pack(dataset.train, 14, seed=1, unmasked=2))
    monkeypatch.setattr(stage, "pixels_of", lambda place, pack: np.ones((len(pack), pack.num_classes), np.int64))
    for name in ("some", "whole"):
        stage.run(settings, "toy", name, 0)
    split, whole = paths.Partition("toy", "some", 0), paths.Partition("toy", "whole", 0)
    roles = partition.read(split.table)
    assert [len(ids) for ids in roles] == [6, 2, 6] and len({*roles.labelled, *roles.held_out, *roles.unlabelled}) == 14
    assert sorted([*roles.labelled, *roles.held_out]) == partition.read(whole.table).labelled
    told, other = (json.loads(place.provenance.read_text()) for place in (split, whole))
    assert (told["labelled"], told["held_out"], told["unlabelled"]) == (8, 2, 6)
    assert told["list_sha256"] == other["list_sha256"] and other["held_out"] == 0
    assert all(pack.has_mask(pack.index(name)) for name in roles.held_out)


# ---------------------------------------------------------------- scores


def test_scores_of_single_images_are_those_of_their_own_matrices() -> None:
    torch.manual_seed(0)
    target = torch.randint(0, 4, (5, 9, 7))
    target[torch.rand(target.shape) < 0.2] = 255
    target[3][target[3] == 2] = 1  # a class that only some images show
    target[4] = 255
    prediction = torch.randint(0, 4, target.shape)
    found = image_scores(target, prediction, 4)
    for own, truth, guess in zip(found[:4], target, prediction, strict=False):
        matrix = ConfusionMatrix(4)
        matrix.update(truth, guess)
        scores = matrix.scores()
        assert own.tolist() == pytest.approx([scores["miou"], scores["pixel_accuracy"], 1.0])
    assert found[4, 2] == 0
    kept = PerImage(6, 4, torch.device("cpu"))
    kept.update([5, 0, 1, 2, 3], target, prediction)
    values = kept.scores()
    assert values[5].tolist() == pytest.approx(found[0, :2].tolist())
    assert np.isnan(values[[3, 4]]).all() and not np.isnan(values[[0, 1, 2, 5]]).any()


@pytest.mark.slow
def test_evaluate_scores_each_image(project):
    train.run(project, "toy", "some", "supervised", 0)
    evaluate.run(project, "toy", "some", "supervised", 0)
    table = pd.read_parquet(paths.Cell("toy", "some", "supervised", 0).per_image)
    assert table["image_id"].tolist() == Pack(paths.Dataset("toy").val).ids and table["miou"].between(0, 1).all()


@pytest.mark.parametrize(
    ("counts", "share"),
    [
        ([[80, 0, 0], [10, 0, 0], [10, 0, 0]], 1.0),  # all is taken for the first class
        ([[80, 0, 0], [0, 10, 0], [5, 0, 5]], 0.25),
        ([[50, 30, 0], [0, 10, 0], [0, 0, 10]], 30 / 90),
        ([[7, 3], [0, 0]], 0.3),  # what only one class is there to lose
        ([[0, 0], [0, 0]], math.nan),
    ],
)
def test_how_much_of_the_others_one_class_takes(counts, share) -> None:
    matrix = ConfusionMatrix(len(counts))
    for target, row in enumerate(counts):
        for prediction, number in enumerate(row):
            matrix.update(torch.full((number,), target), torch.full((number,), prediction))
    assert matrix.swallowed() == pytest.approx(share, nan_ok=True)


def test_reliability_of_known_labels() -> None:
    bins = calibration.Bins(torch.device("cpu"))
    label = torch.tensor([0, 1, 1, 2, 2])
    truth = torch.tensor([0, 0, 1, 255, 2])
    bins.add(label, torch.tensor([0.96, 0.97, 0.95, 0.99, 1.0]), truth)
    bins.add(label[:1], torch.tensor([0.51]), truth[:1])
    table = bins.table()
    assert table["low"].iloc[[10, 19]].tolist() == [0.5, 0.95] and table["high"].iloc[-1] == 1.0
    assert table["pixels"].iloc[[10, 19]].tolist() == [1, 4] and table["pixels"].sum() == 5
    assert table["right"].iloc[19] == 3 and table["confidence"].iloc[19] == pytest.approx(0.96 + 0.97 + 0.95 + 1.0)


@pytest.mark.slow
def test_a_network_in_training_is_judged_in_evaluation_and_goes_on_training(project):
    settings = project
    model, _ = saved.load(paths.Cell("toy", "some", "warmup", 0).student)
    pack = Pack(paths.Dataset("toy").train)
    tables = []
    for mode in (True, False):
        model.train(mode)
        tables.append(calibration.measure(model, pack, [0, 1, 2], settings.inference, torch.device("cpu")))
        assert model.training is mode
    pd.testing.assert_frame_equal(*tables)


def test_large_class_maps_are_thinned_out() -> None:
    labels = torch.arange(300)[:, None].expand(300, 200) % 200
    small = snapshots.thinned(labels)
    assert small.shape == (100, 67) and small.dtype == torch.uint8 and small[0, 0] == 1
    assert snapshots.thinned(labels[:96, :96]).shape == (96, 96)


@pytest.mark.parametrize("pixels", [1, 31, 1000])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_gpus_copies_of_the_counts_add_up(pixels, device):
    """A GPU spreads each count over several; on a CPU by the same operations here."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (pixels,), generator=generator)
    target[::7] = 255
    prediction = torch.randint(0, 4, (pixels,), generator=generator)
    expected, matrix = ConfusionMatrix(4), ConfusionMatrix(4, device=device)
    if device == "cpu":
        matrix._copies, matrix._flat = 5, torch.zeros(5 * 18, dtype=torch.int64)
    for _ in range(2):
        expected.update(target, prediction)
        matrix._scatter(target.to(device), prediction.to(device))
        matrix.merge(lambda counts: counts * 2)
        expected.merge(lambda counts: counts * 2)
    assert (matrix.counts == expected.counts).all() and matrix.counts.sum() == 6 * (target != 255).sum()
    matrix._scatter(torch.tensor([4], device=device), torch.tensor([0], device=device))
    with pytest.raises(ValueError, match="1 pixels have a class outside"):
        matrix.counts  # noqa: B018
