"""Every mistake in params.yaml is one line that names the key, the value and what is allowed."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dualteacher import settings
from dualteacher.system.errors import UserError
from dualteacher.workflow import presets

ROOT = Path(__file__).parent.parent.parent
RAW = presets.load("bluemarble", ROOT / "presets")


def changed(key: str, value) -> dict:
    raw = copy.deepcopy(RAW)
    *parents, last = key.split(".")
    section = raw
    for parent in parents:
        section = section[parent]
    section[last] = value
    return raw


MISTAKES = [
    ("train.learning_rat", 0.1, ["unknown key 'train.learning_rat'", "did you mean 'learning_rate'?"]),
    ("extra", 1, ["unknown key 'extra'", "allowed:"]),
    ("train.learning_rate", "1e-3", ["train.learning_rate", "'1e-3'", "write 0.001"]),
    ("train.learning_rate", 0, ["train.learning_rate = 0", "greater than 0"]),
    ("batch.labelled", 2.5, ["batch.labelled = 2.5", "integer"]),
    ("batch.labelled", True, ["batch.labelled"]),
    ("partition.eighth.fraction", 2, ["partition.eighth.fraction = 2", "less than or equal to 1"]),
    ("partition.eighth.count", 5, ["partition.eighth", "exactly one"]),
    ("grid.method", ["dual_techer"], ["grid.method names 'dual_techer'", "dual_teacher"]),
    ("grid.partition", ["half"], ["grid.partition names 'half'", "eighth"]),
    ("grid.seed", [], ["grid.seed", "at least 1"]),
    ("grid.also.bound.method", ["supervised"], ["grid.also.bound", "both partitions and methods"]),
    ("grid.also.bound", {"partition": ["eighth"], "method": ["supervised"]}, ["grid.partition has already"]),
    ("grid.also.bound", {"partition": ["half"], "method": ["supervised"]}, ["grid.also names 'half'", "eighth"]),
    ("grid.also.ablation", {"partition": ["full"], "method": ["fixmatch"]}, ["which grid.partition lacks"]),
    ("grid.also.ablation", {"partition": ["eighth"], "method": ["supervised"]}, ["grid.method has already"]),
    ("partition.eighth.held_out", 1.0, ["partition.eighth.held_out = 1.0"]),
    ("grid.seed", [1, 1], ["grid.seed lists a value twice"]),
    ("model.architecture", "unet", ["model.architecture = 'unet'", "segformer"]),
    ("augment.scale", [2.0, 0.5], ["augment.scale runs from small to large"]),
    ("warmup.epochs", 3, ["warmup", "exactly one of steps and epochs"]),
    ("datasets.bluemarble.block", 100, ["block (100) must be a multiple of tile (96)"]),
    ("runtime.device", "gpu", ["runtime.device = 'gpu'"]),
]


@pytest.mark.parametrize(("key", "value", "words"), MISTAKES, ids=[f"{k}={v}" for k, v, _ in MISTAKES])
def test_a_mistake_is_one_line(key, value, words):
    with pytest.raises(UserError) as caught:
        settings.parse(changed(key, value))
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_missing_keys_are_named_and_counted():
    raw = copy.deepcopy(RAW)
    del raw["train"]["learning_rate"], raw["model"]["dropout"]
    with pytest.raises(UserError, match=r"'model.dropout' is missing \(and 1 more mistake\)"):
        settings.parse(raw)


@pytest.mark.parametrize("preset", presets.names(ROOT / "presets"))
def test_every_preset_is_valid(preset):
    text = presets.text(preset, ROOT / "presets")
    assert settings.parse(yaml.safe_load(text)) == settings.parse(presets.load(preset, ROOT / "presets"))


def test_the_default_params_are_the_bluemarble_preset():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    shown = subprocess.run(
        ["git", "-C", str(ROOT), "show", "HEAD:params.yaml"], capture_output=True, text=True, check=False
    )
    if shown.returncode:
        pytest.skip("no commit yet")
    assert shown.stdout == presets.text("bluemarble", ROOT / "presets"), "run `make use PRESET=bluemarble`"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dualteacher", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        (None, ["check-params"], ["params.yaml: no such file", "make use PRESET=bluemarble"]),
        ("a: [1", ["check-params"], ["params.yaml line", "not valid YAML"]),
        ("- 1", ["check-params"], ["a mapping of sections is expected, not list"]),
        ("good", ["train", "--dataset", "moon", "--partition", "eighth", "--method", "supervised", "--seed", "0"],
         ["--dataset moon", "not defined in params.yaml, which has bluemarble"]),
        ("good", ["download"], ["give either --dataset NAME or --weights"]),
        ("good", ["warmup", "--dataset", "bluemarble", "--partition", "eighth", "--seed", "0"],
         ["no such file", "prepare"]),
    ],
)  # fmt: skip
def test_the_command_line_says_it_in_one_line(tmp_path, text, arguments, words):
    if text is not None:
        good = presets.text("bluemarble", ROOT / "presets")
        (tmp_path / "params.yaml").write_text(good if text == "good" else text)
    done = run(*arguments, cwd=tmp_path)
    errors = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(errors) == 1 and errors[0].startswith("error: "), done.stderr
    assert all(word in errors[0] for word in words), errors[0]
    assert not list(tmp_path.rglob("*.safetensors")) and not (tmp_path / "results").exists()


def test_help_teaches(tmp_path):
    text = run("--help", cwd=tmp_path).stdout
    for stage in ("download", "prepare", "partition", "warmup", "train", "evaluate", "report"):
        assert stage in text
    assert "snakemake --cores all" in text and "dvc repro" in text
    assert run(cwd=tmp_path).returncode != 1
