"""`suggest`: what it writes, by each way of choosing, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dualteacher import methods, settings
from dualteacher.data import partition
from dualteacher.data.pack import Pack
from dualteacher.inference.predictor import Predictor, to_tensor
from dualteacher.labelling import coco
from dualteacher.labelling.observe import Observer
from dualteacher.models import weights
from dualteacher.models.segmenter import Segmenter
from dualteacher.stages import train, warmup
from dualteacher.system import paths
from dualteacher.system.errors import UserError
from dualteacher.training import committee
from tests.core.conftest import CLASSES, toy_settings, write_pack

from .conftest import command, options, record, table, untrained, write_params

CELL = paths.Cell("toy", "some", "dual_teacher", 0)
LABELLED = 5
INDEX_OF = {index + 1: index for index in range(3)}


@pytest.fixture
def loaded(in_a_folder_of_its_own: None) -> settings.Settings:
    """Eleven images, five of them labelled, and settings for them."""
    pack = Pack(write_pack(paths.Dataset("toy").train, 11, 0, unmasked=1))
    partition.write(paths.Partition("toy", "some", 0).table, pack.ids, pack.ids[:LABELLED])
    wanted = toy_settings()
    write_params(wanted)
    return wanted


@pytest.fixture
def student(loaded: settings.Settings) -> Segmenter:
    return untrained(loaded, CELL)


@pytest.mark.parametrize("by", ["uncertainty", "disagreement", "diversity", "mixed", "random"])
def test_each_way_of_choosing(student: Segmenter, by: str) -> None:
    command(*options(CELL, 3, by, "next"))
    rows = table("next")
    ids = [row["image_id"] for row in rows]
    assert [row["rank"] for row in rows] == ["1", "2", "3"] and len(set(ids)) == 3
    assert set(ids) <= {f"image{i:03d}" for i in range(LABELLED, 11)}, "unlabelled ones"
    if by in ("uncertainty", "disagreement"):
        figures = [float(row[by]) for row in rows]
        assert figures == sorted(figures, reverse=True)
    assert ("distance" in rows[0]) == (by in ("diversity", "mixed"))
    command(*options(CELL, 3, by, "again"))
    assert Path("next/suggested.csv").read_bytes() == Path("again/suggested.csv").read_bytes()
    assert record("next")["by"] == by and record("next")["of"] == 6


def test_a_vision_transformer_suggests_too(loaded: settings.Settings) -> None:
    """Features are pooled from the last of its four maps; patches of 16 do not divide every view of an image."""
    plain = loaded.model.model_copy(update={"backbone": "test_vit", "architecture": "dpt"})
    inference = loaded.inference.model_copy(update={"multiple": 1})
    wanted = loaded.model_copy(update={"model": plain, "inference": inference})
    write_params(wanted)
    untrained(wanted, CELL)
    for by in ("disagreement", "mixed"):
        command(*options(CELL, 3, by, by))
        assert [row["rank"] for row in table(by)] == ["1", "2", "3"]


def test_the_most_uncertain_come_first(student: Segmenter) -> None:
    pack = Pack(paths.Dataset("toy").train)
    means = {}
    for i in range(LABELLED, 11):
        logits = Predictor(student, toy_settings().inference).logits(to_tensor([pack.image(i)], torch.device("cpu")))
        full = torch.nn.functional.interpolate(logits, pack.size(i), mode="bilinear", align_corners=False)
        means[pack.ids[i]] = 1 - float(full.softmax(1).amax(1).mean())
    command(*options(CELL, 6, "uncertainty", "next"))
    found = {row["image_id"]: float(row["uncertainty"]) for row in table("next")}
    assert list(found) == sorted(means, key=lambda name: -means[name])
    assert found == pytest.approx(means, abs=1e-5)


def test_diversity_starts_from_the_labelled_ones_and_mixed_from_the_uncertain(loaded: settings.Settings) -> None:
    pack = Pack(paths.Dataset("toy").train)
    observer = Observer(untrained(loaded, CELL, seed=1), pack, loaded.inference, torch.device("cpu"))
    features = observer.features(range(11)).astype(float)
    apart = np.linalg.norm(features[:, None] - features[None, :LABELLED], axis=2).min(1)
    command(*options(CELL, 1, "diversity", "diverse"))
    command(*options(CELL, 1, "mixed", "mixed"))
    farthest = max(range(LABELLED, 11), key=lambda i: apart[i])
    sure = observer.uncertainty(range(LABELLED, 11))
    unsure = max((LABELLED + np.argsort(-sure)[:3]).tolist(), key=lambda i: apart[i])
    assert farthest != unsure and unsure != LABELLED + sure.argmax(), "else this tells nothing apart"
    for output, expected in (("diverse", farthest), ("mixed", unsure)):
        (row,) = table(output)
        assert row["image_id"] == pack.ids[expected]
        assert float(row["distance"]) == pytest.approx(apart[expected], rel=1e-4)


def test_what_is_written(student: Segmenter) -> None:
    command(*options(CELL, 2, "random", "next"), "--threshold", "0.5")
    pack = Pack(paths.Dataset("toy").train)
    written = json.loads(Path("next/annotations.json").read_text())
    for number, row in enumerate(table("next"), start=1):
        i = pack.index(row["image_id"])
        assert (Path("next/images") / row["image"]).read_bytes() == pack.encoded(i).to_pybytes()
        with Image.open(f"next/masks/{row['image_id']}.png") as opened:
            mask = np.asarray(opened)
            assert opened.mode == "P"
            assert (opened.getpalette() or [])[:9] == [value for info in CLASSES for value in info.color]
        assert mask.shape == pack.size(i)
        assert set(np.unique(mask)) - {255} <= {0, 1, 2} and (mask == 255).any(), "unsure pixels are left open"
        drawn = [entry for entry in written["annotations"] if entry["image_id"] == number]
        np.testing.assert_array_equal(coco.rasterise(drawn, mask.shape, INDEX_OF), mask)
    assert [entry["name"] for entry in json.loads(Path("next/classes.json").read_text())] == ["ground", "disc", "bar"]
    labels = json.loads(Path("next/cvat_labels.json").read_text())
    assert labels[1] == {"name": "disc", "color": "#c81e1e", "attributes": []}


def test_the_teachers_are_asked_where_they_are_here(loaded: settings.Settings, student: Segmenter) -> None:
    method = methods.build("dual_teacher", loaded, student)
    torch.manual_seed(2)
    torch.nn.init.normal_(method.teachers[1].head.classifier.weight, std=1.0)
    committee.keep(CELL, method)
    command(*options(CELL, 6, "disagreement", "next"))
    assert record("next")["how"] == "disagreement of 2 teachers"
    pack = Pack(paths.Dataset("toy").train)
    predictors = [Predictor(teacher.eval(), loaded.inference) for teacher in method.teachers]
    for row in table("next"):
        image = to_tensor([pack.image(pack.index(row["image_id"]))], torch.device("cpu"))
        one, other = (predictor(image) for predictor in predictors)
        assert float(row["disagreement"]) == pytest.approx(float((one != other).float().mean()), abs=1e-6)
    untrained(loaded, CELL, seed=1)
    command(*options(CELL, 6, "disagreement", "other"))
    assert record("other")["how"].startswith("disagreement of 4 views"), "another student's teachers do not count"


@pytest.mark.slow
@pytest.mark.parametrize(("method", "how"), [("dual_teacher", "2 teachers"), ("cps", "student and partners")])
def test_training_keeps_them(loaded: settings.Settings, method: str, how: str) -> None:
    write_pack(paths.Dataset("toy").val, 3, 1)
    cell = paths.Cell("toy", "some", method, 0)
    weights.prepare_backbone(loaded.model, Path("nothing"))
    for _ in range(2):  # a finished cell is not trained again, and its committee stays
        warmup.run(loaded, "toy", "some", 0)
        train.run(loaded, "toy", "some", method, 0)
    command(*options(cell, 3, "disagreement", "next"))
    assert record("next")["how"] == f"disagreement of {how}"


def test_what_is_refused(loaded: settings.Settings, student: Segmenter) -> None:
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="full: already exists"):
        command(*options(CELL, 1, "random", "full"))
    with pytest.raises(UserError, match="only 6 unlabelled images"):
        command(*options(CELL, 7, "random", "next"))
    with pytest.raises(UserError, match="--method absent"):
        command(*options(paths.Cell("toy", "some", "absent", 0), 1, "random", "next"))
    pack = Pack(paths.Dataset("toy").train)
    partition.write(paths.Partition("toy", "some", 0).table, pack.ids, pack.ids[: LABELLED + 1])
    with pytest.raises(UserError, match="have changed since training; train again"):
        command(*options(CELL, 1, "random", "next"))
    assert not Path("next").exists()
