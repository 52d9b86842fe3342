"""gpu-check's file, without a GPU: parts that fail, and targets."""

from __future__ import annotations

import json

import pytest

from dualteacher.benchmark import gpu_check
from dualteacher.benchmark.cases import GPU
from dualteacher.system.errors import UserError


def test_a_part_that_fails_is_an_error_in_the_file(tmp_path):
    path = tmp_path / "gpu-check.json"

    def broken():
        assert json.loads(path.read_text())["kernels"]["losses"] == {"median_seconds": 0.001}  # written already
        raise RuntimeError("CUDA error\nand more")

    def kernels():
        return {"losses": {"median_seconds": 0.001}, "labels": {"median_seconds": 0.001}}

    found = gpu_check.run({"kernels": kernels, "side by side": broken, "evaluation": dict}, {}, path)
    assert json.loads(path.read_text()) == found
    assert found["side by side"] == {"error": "RuntimeError: CUDA error"} and found["evaluation"] == {}
    assert found["seconds"].keys() == {"kernels", "side by side", "evaluation"}
    aims = found["targets"]
    assert aims["kernels: losses: median_seconds"] == {"measured": 0.001, "at most": 0.002, "met": True}
    assert aims["kernels: labels: median_seconds"]["met"] is False
    assert aims["side by side: gain"] == {"measured": None, "at least": 2.0, "met": None}


def test_every_aim_is_a_place_in_a_part():
    assert {place[0] for place, _, _ in gpu_check.AIMS} <= gpu_check.parts(None).keys()
    assert tuple(case.name for case in GPU) == (gpu_check.MIT, gpu_check.R50)


def test_without_a_gpu_it_says_so(tmp_path):
    with pytest.raises(UserError, match="no CUDA device"):
        gpu_check.main(tmp_path / "gpu-check.json")


def test_runs_side_by_side_are_ended_if_one_fails(monkeypatch):
    """A run without a GPU's kernels fails here; the others do not wait for ever."""
    monkeypatch.setattr(gpu_check.sys, "executable", "false")
    with pytest.raises(UserError, match="one of the runs side by side failed"):
        gpu_check.at_once(2)
