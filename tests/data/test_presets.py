"""The presets of the paper's rows are complete, current, valid, and say what they will take."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from dualteacher import cli, settings
from dualteacher.commands import estimate
from dualteacher.data import official_lists
from dualteacher.system.errors import UserError
from dualteacher.workflow import presets

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    torch.set_num_threads(1)


# labelled images of the presets with DINOv2
DINOV2 = {
    "voc": ("92", "183", "366", "732", "1464"),
    "cityscapes": ("1_16", "1_8", "1_4", "1_2"),
    "ade20k": ("631", "1263", "2526", "5052", "10105", "1_64", "1_32", "1_16", "1_8", "1_4"),
    "coco": ("1_512", "1_256", "1_128", "1_64", "1_32"),
}


def test_every_row_of_the_paper_has_one() -> None:
    names = set(presets.names()) - {
        "bluemarble",
        "bluemarble-study",
        "bluemarble-tuning",
        "control",
        "few-labels",
        "landcover",
        "textures",
        "tiny",
    }
    rows = {f"ade20k-{n}-mit_b1" for n in (631, 1263, 2526, 5052, 10105)}
    for backbone in ("resnet50", "resnet101"):
        rows |= {f"voc-{n}-{backbone}" for n in (92, 183, 366, 732, 1464)}
        rows |= {f"voc-blended-{n}-{backbone}" for n in ("1_16", "1_8", "1_4")}
        rows |= {f"cityscapes-{n}-{backbone}" for n in ("1_16", "1_8", "1_4", "1_2")}
    for encoder in ("dinov2_small", "dinov2_base", "dinov2_small-frozen", "dinov2_base-frozen"):
        for dataset, labels in DINOV2.items():
            rows |= {f"{dataset}-{n}-{encoder}" for n in labels}
    assert names == rows


def test_the_released_settings_of_ade20k() -> None:
    loaded = settings.parse(presets.load("ade20k-631-mit_b1"))
    assert (loaded.batch.labelled, loaded.batch.unlabelled, loaded.batch.crop) == (8, 8, 512)
    assert loaded.optimizer.ramp_steps == 1500 and loaded.optimizer.horizon == 50000
    assert loaded.train.epochs == 200 and loaded.train.learning_rate == 6e-5 and loaded.warmup.steps == 0
    dual = loaded.methods["dual_teacher"]
    assert dual is not None
    assert (dual.threshold, dual.ema_decay, dual.consistency_weight, dual.normalisation) == (0.95, 0.99, 0.2, "batch")
    assert loaded.mixing == settings.parse(presets.load("bluemarble")).mixing  # the released ones too


def test_turns_of_the_cnn_presets_are_passes_over_the_unlabelled_images() -> None:
    loaded = settings.parse(presets.load("voc-92-resnet50"))
    dual = loaded.methods["dual_teacher"]
    assert dual is not None and loaded.train.steps is not None
    assert (dual.period, dual.period_unit) == ((10582 - 92) // 16, "step")
    assert loaded.train.steps == 80 * dual.period
    assert official_lists.official("voc", loaded.grid.partition[0]).labelled.lines == 92


def test_blended_presets_ask_for_sbd() -> None:
    for name in presets.names():
        if name.startswith("voc"):
            protocol = presets.load(name)["datasets"]["voc"]["protocol"]
            assert protocol == ("blended" if "blended" in name else "classic"), name


def test_the_lengths_of_the_cnn_presets_follow_from_the_lists() -> None:
    """An epoch is a pass over the unlabelled images, in batches of 16: 80 for VOC, 200 for Cityscapes."""
    images = {"voc": (10582, 80), "cityscapes": (2975, 200)}
    for name in presets.names():
        source = name.partition("-")[0]
        if source in images and "resnet" in name:
            loaded = settings.parse(presets.load(name))
            (partition,) = loaded.grid.partition
            labelled = official_lists.official(source, partition).labelled.lines
            total, passes = images[source]
            turn = (total - labelled) // 16
            assert loaded.methods["dual_teacher"].period == turn and loaded.train.steps == passes * turn, name
            assert loaded.train.validate_every == max(passes * turn // (labelled // 16) // 10, 1), name


def test_the_published_recipe_for_dinov2() -> None:
    """UniMatch V2's: images per step, crop, passes over the unlabelled images."""
    published = {"voc": (16, 518, 60), "cityscapes": (8, 798, 180), "ade20k": (8, 518, 60), "coco": (16, 518, 20)}
    for dataset, labels in DINOV2.items():
        for size, width in (("small", 64), ("base", 128)):
            loaded = settings.parse(presets.load(f"{dataset}-{labels[-1]}-dinov2_{size}"))
            batch, train = loaded.batch, loaded.train
            assert (batch.labelled, batch.crop, train.epochs) == published[dataset]
            assert batch.labelled == batch.unlabelled and batch.groups == 4 and train.epochs_of == "unlabelled"
            assert (train.learning_rate, loaded.optimizer.head_multiplier, loaded.optimizer.power) == (5e-6, 40, 0.9)
            assert loaded.model.backbone == f"vit_{size}_patch14_dinov2" and loaded.model.head_width == width
            assert batch.crop % 14 == 0
            kinds = [loaded.methods[name].kind for name in loaded.grid.method]
            assert kinds == ["supervised", "fixmatch", "unimatch_v2", "dual_teacher"]


@pytest.mark.slow
def test_frozen_presets_differ_in_what_is_trained() -> None:
    for dataset, labels in DINOV2.items():
        for name in (f"{dataset}-{n}-dinov2_{size}" for n in labels for size in ("small", "base")):
            frozen = presets.load(f"{name}-frozen")
            changed = {key for key, _, _ in presets.differences(frozen, presets.load(name))}
            assert changed == {"model.freeze", "report.title"}, name
            (partition,) = settings.parse(frozen).grid.partition
            assert partition.endswith(name.split("-")[1]), name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Presets: base, one over it, one over that."""
    shutil.copy(ROOT / "presets" / "base.yaml", tmp_path)
    (tmp_path / "one.yaml").write_text(
        "# One.\ntrain:\n  learning_rate: 0.00006 # slow\nmethods:\n  mean_teacher: {threshold: 0.5}\n"
        "partition:\n  few: {fraction: 0.5, count: null, list: null, held_out: null}\ngrid: {partition: [few]}\n"
    )
    (tmp_path / "two.yaml").write_text("# Two.\nbase: one\ntrain:\n  steps: 7\n")
    return tmp_path


def test_a_preset_says_what_differs_and_is_written_whole(folder: Path) -> None:
    base, two = presets.load("base", folder), presets.load("two", folder)
    assert {key for key, _, _ in presets.differences(two, base)} == {
        *("train.learning_rate", "train.steps", "methods.mean_teacher.threshold", "grid.partition"),
        *("partition.eighth", "partition.quarter", "partition.full", "partition.few"),
    }
    text = presets.text("two", folder)
    assert text.startswith("# Two.\n# All settings of a run") and "learning_rate: 0.00006 # slow\n" in text
    assert yaml.safe_load(text) == two and "  limit: null\n" in text
    comments = (folder / "base.yaml").read_text().count(" # ")
    assert comments - 3 <= text.count(" # ") <= comments + 1  # all but those of the partitions that were replaced


def test_a_preset_with_a_key_that_the_base_lacks_is_refused(folder: Path) -> None:
    (folder / "one.yaml").write_text("train: {rate: 1.0}\n")
    with pytest.raises(UserError, match=r"one.yaml: train.rate: presets/base.yaml has no such key"):
        presets.load("two", folder)
    with pytest.raises(UserError, match=r"no preset '../one'; available: one, two"):
        presets.load("../one", folder)


def test_diff_params_prints_a_line_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    presets.use("tiny", params=tmp_path / "params.yaml")
    cli.app(["diff-params", "bluemarble", "--params", str(tmp_path / "params.yaml")], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert "train.steps: 300 → 6" in lines and "datasets.bluemarble.limit: null → 24" in lines
    assert all(line.count(" → ") == 1 for line in lines) and len(lines) == 16


def test_the_estimate_says_that_it_is_one_and_how_it_came_about(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = settings.parse(presets.load("ade20k-631-mit_b1"))
    monkeypatch.chdir(tmp_path)
    estimate.run(loaded, 1.0)
    text = capsys.readouterr().out
    assert text.startswith("An estimate, not a measurement.")
    rows = {line.split()[1]: line.split() for line in text.splitlines() if line.startswith("dual_teacher_631")}
    assert rows["dual_teacher"][3:6] == ["631", "15,600", "32"] and rows["supervised"][5] == "8"
    assert "total disk: about 2" in text and "Time: the FLOPs of a forward pass" in text


def test_the_estimate_counts_the_images_that_an_epoch_passes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, size = presets.load("ade20k-631-mit_b1"), estimate.SIZES["ade20k"]
    some = {"fraction": 0.25, "count": None, "list": None, "held_out": 0.5}
    monkeypatch.chdir(tmp_path)
    assert estimate._images(settings.parse(raw), "ade20k", "dual_teacher_631", size) == (631, 19579)
    shares = settings.parse(raw | {"partition": {"dual_teacher_631": some}})
    assert estimate._images(shares, "ade20k", "dual_teacher_631", size) == (2526, 15158)


def test_the_counting_of_a_known_network() -> None:
    """One convolution of 3 → 8 maps with 3×3 weights: 2 · 27 · 8 operations a pixel."""

    class One(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 8, 3, padding=1, device="meta")
            self.channels = SimpleNamespace(count=3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.layer(image))

    network = estimate.measure(One(), 32)  # type: ignore[arg-type]
    assert network.flops == 2 * 27 * 8 * 32 * 32 and network.backward == 2 * network.flops
    assert network.parameters == 27 * 8 + 8
    assert network.kept == 4 * 32 * 32 * (3 + 8)  # the image, and what relu gave


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ade20k-631-mit_b1", "voc-blended-1_16-resnet50", "cityscapes-1_16-resnet101"])
def test_snakemake_plans_a_preset_before_there_is_any_data(name: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Snakefile", tmp_path)
    for item in ("workflow", "profiles", "dualteacher"):
        shutil.copytree(ROOT / item, tmp_path / item, ignore=shutil.ignore_patterns("__pycache__"))
    presets.use(name, params=tmp_path / "params.yaml")
    (tmp_path / "own_data").mkdir()
    snakemake = Path(sys.executable).with_name("snakemake")
    done = subprocess.run([snakemake, "--dry-run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    for rule in ("download", "prepare", "classes", "partition", "warmup", "train", "evaluate", "report"):
        assert rule in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"model: {dropout: 0.1, dropout: 0.2}\n", "mine.yaml line 1: key 'dropout' is written twice"),
        (b"a:\n  b: [1\n", "mine.yaml line"),
        ("model: {dropout: 0.1}".encode("utf-16"), "mine.yaml: saved as UTF-16"),
        (b"train: {learning_rate: .inf}\n", "train.learning_rate = inf: input should be a finite number"),
    ],
)
def test_a_preset_that_cannot_be_read_is_one_line(folder: Path, content: bytes, words: str) -> None:
    (folder / "mine.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        presets.text("mine", folder)
    assert words in str(caught.value) and "\n" not in str(caught.value)
