"""GPU slots on GPUs that only CUDA_VISIBLE_DEVICES knows: nothing here starts CUDA."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from dualteacher.machine import gpu_slots, mps
from dualteacher.settings import Runtime
from dualteacher.system import heartbeat
from dualteacher.system.errors import UserError
from dualteacher.workflow import engines, presets

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Two GPUs, no other job's locks, not in a job of Slurm or torchrun."""
    for name in ("SLURM_JOB_ID", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", gpu_slots.LAUNCHED, mps.PIPES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(gpu_slots.FOLDER, str(tmp_path / "slots"))
    monkeypatch.setenv(gpu_slots.VISIBLE, "0,1")
    monkeypatch.setattr(mps, "DEFAULT", tmp_path / "none")
    monkeypatch.setattr(gpu_slots, "time", SimpleNamespace(sleep=no_slot, monotonic=time.monotonic))


class Full(Exception):
    """The job would wait."""


def no_slot(_seconds: float) -> None:
    raise Full


def runtime(**settings) -> Runtime:
    return Runtime(**presets.load("base")["runtime"] | {"cells_per_gpu": 1, "processes": 1} | settings)


class Jobs(ExitStack):
    """Jobs that run until the end of the block; each sees what its caller saw, not what the others were given."""

    def start(self, **settings) -> str:
        before = os.environ[gpu_slots.VISIBLE]
        self.enter_context(gpu_slots.taken(runtime(**settings)))
        given, os.environ[gpu_slots.VISIBLE] = os.environ[gpu_slots.VISIBLE], before
        return given


def test_jobs_get_a_gpu_each_and_give_it_back() -> None:
    with Jobs() as jobs:
        assert [jobs.start(), jobs.start()] == ["0", "1"]
        with pytest.raises(Full):
            jobs.start()
    with Jobs() as jobs:
        assert jobs.start() == "0"
        assert jobs.start(device="cuda") == "1"
    assert os.environ[gpu_slots.VISIBLE] == "0,1"


def test_a_cpu_job_takes_none() -> None:
    with Jobs() as jobs:
        jobs.start(processes=2)
        assert jobs.start(device="cpu") == "0,1"


def test_a_waiting_job_says_so_and_goes_on_when_a_gpu_is_free(tmp_path, monkeypatch, caplog) -> None:
    log, first, seen = tmp_path / "train.log", Jobs(), []
    first.start(processes=2)

    def release(_seconds: float) -> None:
        seen.append(json.loads(heartbeat.place(log).read_text())["waiting"])
        first.close()

    monkeypatch.setattr(gpu_slots.time, "sleep", release)
    monkeypatch.setattr(gpu_slots.console.logger, "propagate", True)
    with caplog.at_level("INFO", "dualteacher"), heartbeat.during(log), gpu_slots.taken(runtime()):
        assert os.environ[gpu_slots.VISIBLE] == "0"
        assert "waiting" not in json.loads(heartbeat.place(log).read_text())
    assert seen == ["a free GPU"]
    assert "waiting for a free GPU: all of 0,1 are in use" in caplog.text


def test_the_slot_of_a_killed_job_comes_back() -> None:
    code = (
        "import sys; from dualteacher.machine import gpu_slots\n"
        "from tests.machine.test_gpu_slots import runtime\n"
        "with gpu_slots.taken(runtime(processes=2)): print('held', flush=True); sys.stdin.read()"
    )
    job = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert job.stdout.readline() == b"held\n"
    with pytest.raises(Full), Jobs() as jobs:
        jobs.start()
    job.kill()
    job.communicate()
    with Jobs() as jobs:
        assert jobs.start() == "0"


def test_small_cells_share_but_not_with_a_job_that_wants_a_gpu_to_itself() -> None:
    with Jobs() as jobs:
        assert [jobs.start(cells_per_gpu=2) for _ in range(3)] == ["0", "1", "0"]
        with pytest.raises(Full):
            jobs.start()
        assert jobs.start(cells_per_gpu=2) == "1"
        with pytest.raises(Full):
            jobs.start(cells_per_gpu=2)
    with Jobs() as jobs:
        assert [jobs.start(), jobs.start(cells_per_gpu=2), jobs.start(cells_per_gpu=2)] == ["0", "1", "1"]


def test_several_gpus_are_taken_all_or_none() -> None:
    with Jobs() as jobs:
        assert jobs.start() == "0"
        with pytest.raises(Full):
            jobs.start(processes=2)
        assert jobs.start() == "1", "the one that waits for two holds none meanwhile"
    with Jobs() as jobs:
        assert jobs.start(processes=2) == "0,1"
    with pytest.raises(UserError, match=r"processes = 3 needs as many GPUs, but only 2 can be used \(0, 1\)"):
        Jobs().start(processes=3)


def test_a_named_device_is_the_one_that_is_held() -> None:
    with Jobs() as jobs:
        assert jobs.start(device="cuda:1") == "0,1", "its number stays right"
        assert jobs.start() == "0"
        with pytest.raises(Full):
            jobs.start(device="cuda:1")
    with pytest.raises(ValueError, match="needs device auto, cuda or cpu"):
        runtime(device="cuda:1", processes=2)


def test_the_user_s_list_is_kept_to(monkeypatch) -> None:
    monkeypatch.setenv(gpu_slots.VISIBLE, "5,3")
    with Jobs() as jobs:
        assert [jobs.start(), jobs.start()] == ["5", "3"]
        monkeypatch.setenv(gpu_slots.VISIBLE, "3,4")
        assert jobs.start() == "4"


@pytest.mark.parametrize(
    ("listed", "names"),
    [("", []), ("-1", []), ("NoDevFiles", []), ("2", ["2"]), (" 0, 1,-1,2", ["0", "1"]), ("GPU-ab12", ["GPU-ab12"])],
)
def test_what_cuda_visible_devices_means(monkeypatch, listed: str, names: list[str]) -> None:
    monkeypatch.setenv(gpu_slots.VISIBLE, listed)
    assert gpu_slots.devices() == names
    assert engines.gpus("auto") == bool(names)


def test_a_gpu_s_number_and_uuid_are_one_slot(tmp_path, monkeypatch) -> None:
    for bus, uuid in (("0000:3b:00.0", "GPU-aaaa-1"), ("0000:86:00.0", "GPU-bbbb-2")):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t\t NVIDIA X\nGPU UUID: \t {uuid}\n")
    monkeypatch.setattr(gpu_slots, "NVIDIA", tmp_path)
    with Jobs() as jobs:
        monkeypatch.setenv(gpu_slots.VISIBLE, "GPU-bbbb")
        assert jobs.start() == "GPU-bbbb"
        monkeypatch.setenv(gpu_slots.VISIBLE, "0,1")
        assert jobs.start() == "0"
        with pytest.raises(Full):
            jobs.start()


def test_what_slurm_gave_needs_no_lock(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(gpu_slots.VISIBLE, "0")
    with Jobs() as jobs:
        assert [jobs.start(), jobs.start()] == ["0", "0"], "two steps of one job: each step's GPUs count from 0"
    assert not (tmp_path / "slots").exists()


def test_jobs_in_one_allocation_share_out_its_gpus(monkeypatch) -> None:
    with Jobs() as jobs:
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        assert [jobs.start(), jobs.start()] == ["0", "1"]
        monkeypatch.setenv("SLURM_JOB_ID", "8")
        assert jobs.start() == "0", "another allocation's GPU 0 is another one"


def test_torchrun_by_hand_takes_the_first_gpus_and_does_not_wait(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with Jobs() as jobs:
        assert jobs.start() == "0,1", "process n uses the n-th of them"
        with pytest.raises(UserError, match="another job is using one of GPU 0, 1; name free ones in CUDA_VISIBLE"):
            jobs.start()
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert jobs.start() == "0,1"
        monkeypatch.delenv("WORLD_SIZE")
        with pytest.raises(Full):
            jobs.start()


def test_a_folder_that_cannot_be_used_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(gpu_slots.FOLDER, str(tmp_path / "file"))
    with pytest.raises(UserError, match="set DUALTEACHER_SLOTS to another folder on this machine"):
        Jobs().start()


def test_everyone_may_use_the_folder_and_nobody_remove_another_s_lock(tmp_path) -> None:
    with Jobs() as jobs:
        jobs.start()
    assert stat.S_IMODE((tmp_path / "slots").stat().st_mode) == 0o1777


def test_the_profile_counts_slots(tmp_path, monkeypatch) -> None:
    settings = presets.load("tiny")
    settings["runtime"] |= {"cells_per_gpu": 3}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    assert engines.gpu_slots(tmp_path / "params.yaml") == 6
    assert engines.gpu_slots(tmp_path / "missing.yaml") == 2
    monkeypatch.setenv(gpu_slots.VISIBLE, "")
    assert engines.gpu_slots(tmp_path / "params.yaml") == 1


SERVICE = """#!/bin/sh
# a stand-in for NVIDIA's: its state is a file in the folder that it is given
cd "$CUDA_MPS_PIPE_DIRECTORY" || exit 1
if [ "$1" = -d ]; then touch up; [ -z "$CUDA_VISIBLE_DEVICES" ] || touch wrong; exit; fi
[ -e up ] || exit 1
read -r command rest
case $command in
    start_server) [ -z "$NO_SERVER" ] && touch server ;;
    get_server_list) [ ! -e server ] || echo 4711 ;;
    quit) rm -f up server ;;
esac
"""


@pytest.fixture
def service(tmp_path, monkeypatch) -> Path:
    program = tmp_path / "bin" / mps.CONTROL
    program.parent.mkdir()
    program.write_text(SERVICE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path / "slots" / f"mps-{os.getuid()}"


def test_mps_is_started_for_the_first_that_shares_and_ended_after_the_last(service) -> None:
    with Jobs() as jobs:
        jobs.start()
        assert mps.PIPES not in os.environ, "a job that has its GPU to itself needs none"
    with Jobs() as first:
        first.start(cells_per_gpu=2)
        assert os.environ.pop(mps.PIPES) == str(service)
        with Jobs() as second:
            second.start(cells_per_gpu=2)
            assert os.environ[mps.PIPES] == str(service)
        assert (service / "server").exists() and not (service / "wrong").exists()
    assert not (service / "up").exists()


def test_an_mps_that_does_not_work_is_not_used(service, monkeypatch) -> None:
    monkeypatch.setenv("NO_SERVER", "1")
    with Jobs() as jobs:
        assert jobs.start(cells_per_gpu=2) == "0"
        assert mps.PIPES not in os.environ and not (service / "up").exists()


def test_an_mps_of_the_user_s_own_is_left_alone(service, monkeypatch) -> None:
    monkeypatch.setenv(mps.PIPES, "/theirs")
    with Jobs() as jobs:
        jobs.start(cells_per_gpu=2)
        assert not service.exists()
    assert os.environ[mps.PIPES] == "/theirs"
