"""The command prints a table and writes valid JSON. Nothing here looks at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dualteacher import cli
from dualteacher.benchmark import cases, measure, memory, profile, programs, report, throughput
from dualteacher.system.errors import UserError

ROOT = Path(__file__).parents[2]
TINY = cases.Case("mobilenetv2_100", 5, 32, 2, 2)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """--quick, with less to do, in the project's folder."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cases, "QUICK", [TINY])
    monkeypatch.setattr(report, "FEW", 3)
    monkeypatch.setattr(report, "MANY", 5)
    monkeypatch.setattr(report, "LOADED", 8)
    monkeypatch.setattr(throughput, "LESSONS", 1)
    real = measure.in_a_process_of_its_own  # seconds each: one of the six will do
    monkeypatch.setattr(report, "in_a_process_of_its_own", lambda what: real(what) if what["program"] == "ours" else 1)


@pytest.mark.slow
def test_quick(quick, tmp_path, capsys):
    file = tmp_path / "figures.json"
    command = ["benchmark", "--quick", "--repeats", "2", "--threads", "1", "--device", "cpu", "--json", str(file)]
    cli.app(command, standalone_mode=False)
    found = json.loads(file.read_text())
    assert found["format"] == report.FORMAT and found["machine"]["threads"] == 1 and found["repeats"] == 2
    (case,) = found["cases"]
    assert case["case"]["model"] == "mobilenetv2_100"
    assert case["steps"].keys() == report.NAMES.keys()
    for figures in case["steps"].values():
        assert len(figures["seconds"]) == 2 and figures["images_per_second"] > 0 and figures["peak_bytes"] >= 0
    assert case["ratios"].keys() == {
        "plain_over_ours", "plain_same_network_over_ours", "bare_over_ours", "memory_ours_over_plain",
    }  # fmt: skip
    assert 0 < case["teachers_share_of_our_step"] < 1
    assert case["evaluation"]["peak_bytes"].keys() == {"3", "5"} and case["evaluation"]["images"] == 3
    printed = capsys.readouterr().out
    assert TINY.name in printed and all(name in printed for name in report.NAMES.values())


def test_profile_accounts_for_the_whole_step(capsys):
    command = ["benchmark", "--model", "mobilenetv2_100", "--classes", "5", "--size", "32", "--labelled", "2"]
    cli.app([*command, "--unlabelled", "2", "--profile", "--repeats", "2", "--threads", "1"], standalone_mode=False)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("mobilenetv2_100, 5 classes, 32²")
    names = {line[2:54].strip() for line in printed[1:-1]}
    assert names == {part for _, _, part in profile.PARTS} | {
        "student, forward", profile.TEACHER, "optimiser", profile.REST,
    }  # fmt: skip
    assert sum(float(line.split()[-1].rstrip("%")) for line in printed[1:-1]) == pytest.approx(100, abs=1)


def test_with_a_frozen_encoder_every_program_encodes_each_view_once():
    """Ours, the plain ones and the bare passes; in ours what is left of the teacher's pass counts as its head's."""
    case, cpu = cases.Case("test_vit", 3, 32, 2, 2, "dpt", "backbone"), torch.device("cpu")
    assert case.name.endswith("frozen: backbone")
    for name, make in memory.PROGRAMS.items():
        program, seen = make(case, cpu), []
        hooks = [
            module.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(len(inputs[0])))
            for module in encoders(program)
        ]
        program(0)
        assert hooks and sum(seen) == 8, name  # 2 labelled images; a weak and two strong views of 2 others
    parts = profile.shares(case, cpu, 1)
    assert parts[profile.ENCODER] > 0
    assert profile.teachers_share(parts) == (parts[profile.TEACHER] + parts[profile.AVERAGE]) / sum(parts.values())


def encoders(program):
    """The backbones of its networks, each once."""
    if isinstance(program, programs.Plain):
        networks = [program.training.student, *program.training.teachers]
    else:
        networks = [program.job.student] if isinstance(program, programs.Ours) else [program.student]
    return {getattr(network, "copied", network).backbone for network in networks}


def test_turns_are_taken_one_by_one():
    order = []
    programs = {name: lambda step, name=name: order.append((step, name)) for name in "abc"}
    seconds = measure.interleaved(programs, 3, torch.device("cpu"))
    assert order == [(step, name) for step in range(5) for name in "abc"]
    assert all(len(values) == 3 for values in seconds.values())  # the first two of each do not count


@pytest.mark.slow
def test_the_memory_of_a_program_is_that_of_its_own_process(tmp_path):
    """200 MB here must not show in the child; what the child takes must."""
    ballast = bytearray(200 << 20)
    text = (
        "import torch; from dualteacher.benchmark.measure import peak;"
        "print(peak(lambda: lambda step: torch.ones(25 << 20).sum(), torch.device('cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert 95 << 20 < int(done.stdout) < 130 << 20 and len(ballast)


def test_a_program_that_fails_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(UserError, match="failed") as caught:
        measure.in_a_process_of_its_own({"program": "none"})
    assert "\n" not in str(caught.value)
