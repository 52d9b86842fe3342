"""Every mistake in params.yaml is one line that names the key, the value and what is allowed."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dualteacher import cli, settings
from dualteacher.settings import strict_yaml
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
    ("grid.method", ["dual_techer"], ["grid.method: 'dual_techer' is not defined", "dual_teacher"]),
    ("grid.partition", ["half"], ["grid.partition: 'half' is not defined", "eighth"]),
    ("grid.seed", [], ["grid.seed", "at least 1"]),
    ("grid.also.bound.method", ["supervised"], ["grid.also.bound", "both partition and method"]),
    ("grid.also.bound", {"partition": ["eighth"], "method": ["supervised"]}, ["already in grid.partition"]),
    (
        "grid.also.bound",
        {"partition": ["half"], "method": ["supervised"]},
        ["grid.also: 'half' is not defined", "eighth"],
    ),
    ("grid.also.ablation", {"partition": ["full"], "method": ["fixmatch"]}, ["is not in grid.partition"]),
    ("grid.also.ablation", {"partition": ["eighth"], "method": ["supervised"]}, ["already in grid.method"]),
    ("partition.eighth.held_out", 1.0, ["partition.eighth.held_out = 1.0"]),
    ("grid.seed", [1, 1], ["grid.seed contains a duplicate"]),
    ("model.architecture", "unet", ["model.architecture = 'unet'", "segformer"]),
    ("augment.scale", [2.0, 0.5], ["augment.scale must be [low, high]"]),
    ("warmup.epochs", 3, ["warmup", "exactly one of steps and epochs"]),
    ("datasets.bluemarble.block", 100, ["block (100) must be a multiple of tile (96)"]),
    ("runtime.device", "gpu", ["runtime.device = 'gpu'"]),
    ("evaluate.weights", "teachers", ["evaluate.weights = 'teachers'", "supervised of the grid has no teachers"]),
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
    with pytest.raises(UserError, match=r"'model.dropout' is missing \(and 1 more error\)"):
        settings.parse(raw)


@pytest.mark.parametrize("preset", presets.names(ROOT / "presets"))
def test_every_preset_is_valid(preset):
    text = presets.text(preset, ROOT / "presets")
    assert settings.parse(yaml.safe_load(text)) == settings.parse(presets.load(preset, ROOT / "presets"))


def test_the_default_params_are_the_default_preset():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    shown = subprocess.run(
        ["git", "-C", str(ROOT), "show", "HEAD:params.yaml"], capture_output=True, text=True, check=False
    )
    if shown.returncode:
        pytest.skip("no commit yet")
    expected = presets.text(presets.DEFAULT, ROOT / "presets")
    assert shown.stdout == expected, f"run `make use PRESET={presets.DEFAULT}`"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dualteacher", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        (None, ["check-params"], ["params.yaml: no such file", "dualteacher use textures", "dualteacher new DIR"]),
        ("a: [1", ["check-params"], ["params.yaml line", "not valid YAML"]),
        ("- 1", ["check-params"], ["expected a mapping of sections, not list"]),
        ("good", ["train", "--dataset", "moon", "--partition", "eighth", "--method", "supervised", "--seed", "0"],
         ["--dataset moon", "not defined in params.yaml, which has bluemarble"]),
        ("good", ["download"], ["give either --dataset NAME or --weights"]),
        ("good", ["warmup", "--dataset", "bluemarble", "--partition", "eighth", "--seed", "0"],
         ["no such file", "prepare"]),
    ],
)  # fmt: skip
def test_the_command_line_says_it_in_one_line(tmp_path, monkeypatch, capfd, text, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dualteacher", *arguments])
    if text is not None:
        good = presets.text("bluemarble", ROOT / "presets")
        (tmp_path / "params.yaml").write_text(good if text == "good" else text)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    errors = capfd.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: "), errors
    assert all(word in errors[0] for word in words), errors[0]
    assert not list(tmp_path.rglob("*.safetensors")) and not (tmp_path / "results").exists()


def test_help_teaches(tmp_path):
    text = run("--help", cwd=tmp_path).stdout
    for stage in ("download", "prepare", "classes", "partition", "warmup", "train", "evaluate", "report"):
        assert stage in text
    assert "snakemake --cores all" in text and "dvc repro" in text
    assert run(cwd=tmp_path).returncode != 1


GOOD = presets.text("bluemarble", ROOT / "presets")
UNREADABLE = {
    "twice": (GOOD.replace("  dropout:", "  head_width: 64\n  dropout:", 1).encode(),
        ["key 'head_width' is written twice (first on line", "remove one"]),
    "section twice": (f"{GOOD}\nmodel: {{}}\n".encode(), ["key 'model' is written twice (first on line"]),
    "in a flow": (b"a: {b: 1, c: 2, b: 3}", ["params.yaml line 1: key 'b' is written twice (first on line 1)"]),
    "quoted": (b"a: 1\n'a': 2\n", ["params.yaml line 2: key 'a' is written twice (first on line 1)"]),
    "infinite": (b"a: 1\nb: [.inf]", ["params.yaml line 2: .inf is not a finite number"]),
    "minus infinite": (b"a: -.INF", ["params.yaml line 1: -.INF is not a finite number"]),
    "nan": (b"a: .nan", ["params.yaml line 1: .nan is not a finite number"]),
    "too large": (b"a: 1.0e+999", ["params.yaml line 1: 1.0e+999 is not a finite number"]),
    "tagged": (b"a: !!float nan", ["params.yaml line 1: nan is not a finite number"]),
    "UTF-16": (GOOD.encode("utf-16"), ["params.yaml: saved as UTF-16", "save it as UTF-8"]),
    "UTF-16-BE": (GOOD.encode("utf-16-be"), ["params.yaml: saved as UTF-16", "save it as UTF-8"]),
    "UTF-32": (GOOD.encode("utf-32"), ["params.yaml: saved as UTF-16 or UTF-32", "save it as UTF-8"]),
    "Latin-1": ("a: 1\nb: größe".encode("latin-1"), ["params.yaml line 2: not UTF-8 (byte 0xf6); save it as UTF-8"]),
    "tab": (b"a:\n\tb: 1", ["params.yaml line 2: not valid YAML"]),
    "control": (b"a: \x07", ["params.yaml: not valid YAML"]),
    "date": (b"a: 2024-13-45", ["params.yaml: not valid YAML: month must be in 1..12"]),
    "object": (b"a: !!python/object/apply:os.system [ls]", ["params.yaml line 1: not valid YAML"]),
    "deep": (b"[" * 5000, ["params.yaml: not valid YAML: nested too deeply"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_readers_would_take_differently_is_refused_in_one_line(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, words = UNREADABLE[kind]
    Path("params.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        settings.load()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_a_byte_order_mark_and_merged_mappings_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes(GOOD.encode("utf-8-sig"))
    assert settings.load() == settings.parse(RAW)
    merged = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: *b, x: 4}\nd: *b"
    assert strict_yaml.parse(merged, "x") == yaml.safe_load(merged)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_rate_is_finite_wherever_it_comes_from(value):
    with pytest.raises(UserError, match=r"train.learning_rate = (inf|nan): input should be a finite number"):
        settings.parse(changed("train.learning_rate", value))


def test_a_comment_sign_within_a_name_is_no_comment():
    odd = "a   # b"
    made = presets.commented(f"x: 1      # one\nnames: ['{odd}', \"c     # d\"]     # two\ny: {{k: v}}   # three\n")
    text = presets.dump(made)
    assert text == f"x: 1 # one\nnames: ['{odd}', \"c     # d\"] # two\ny: {{k: v}} # three\n"
