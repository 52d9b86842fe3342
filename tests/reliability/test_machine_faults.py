"""Full and read-only disks, two processes at one job, clocks that jump, no network."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dualteacher.system import files
from dualteacher.workflow import engines
from tests.workflow.conftest import Project

from .conftest import STAGES, Spawner, content, copy, parameters, write_images
from .conftest import write_parameters as write
from .test_data_faults import RUN, one_line

OUTPUT = {  # of a stage: whether it is there says whether the stage has done its work
    "download": "data/toy/raw/manifest.json",
    "weights": "data/weights/mobilenetv2_100.safetensors",
    "prepare": "data/toy/train.arrow",
    "classes": "data/toy/contact_sheet.png",
    "partition": "data/toy/partitions/some/seed0.parquet",
    "warmup": "results/runs/toy/some/warmup/seed0/student.safetensors",
    "train": f"{RUN}/student.safetensors",
    "evaluate": f"{RUN}/metrics.json",
    "report": "results/summary.json",
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 192 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192m", "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, left: int) -> Path:
    """Leave `left` bytes of a disk; the file that takes the rest."""
    filler = folder / "filler"
    state = os.statvfs(folder)
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - left)
    return filler


@pytest.mark.slow
def test_a_full_disk_is_one_line_in_every_stage_and_the_same_command_goes_on(
    spawn: Spawner, finished: Path, disk: Path
) -> None:
    folder = disk / "project"
    folder.mkdir()
    write(folder, parameters())
    write_images(folder / "own_data")
    for stage, output in OUTPUT.items():
        for left in (0, 24576):  # nothing, and room for the log and the beginning of the output
            if stage in ("download", "weights", "partition") and left:
                continue  # what they write would fit
            filler = fill(disk, left)
            said = spawn(folder, stage, code=2, output=str(disk.with_name("said")))
            one_line(re.sub(r"(?m)^(?!error: ).*\n", "", said), "disk is full")
            assert "Traceback" not in said and "Logging error" not in said
            assert not (folder / output).exists()
            assert not [path for part in ("data", "results") for path in (folder / part).rglob("*.tmp*")]
            filler.unlink()
        spawn(folder, stage)
    assert content(folder) == content(finished)


@pytest.mark.slow
def test_read_only_outputs_are_one_line(spawn: Spawner, prepared: Path, disk: Path) -> None:
    folder = copy(prepared, disk / "project")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for stage in OUTPUT:
        one_line(spawn(folder, stage, code=2, output=str(disk.with_name("said"))), "Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


def test_no_permission_is_one_line(capsys: pytest.CaptureFixture) -> None:
    from dualteacher import cli

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "results/x")

    with pytest.raises(SystemExit, match="2"):
        cli.guarded(refuse)
    assert capsys.readouterr().err == "error: Permission denied: results/x\n"


@pytest.mark.slow
def test_a_second_process_at_the_same_job_is_refused_in_one_line(
    spawn: Spawner, prepared: Path, tmp_path: Path
) -> None:
    folder = copy(prepared, tmp_path / "project")
    held = files.hold(folder / "logs/warmup/toy-some-0.lock") if (folder / "logs/warmup").mkdir() is None else None
    assert held is not None
    log = folder / "logs/warmup/toy-some-0.log"
    log.write_text("of the first process\n")
    one_line(spawn(folder, "warmup", code=2), "logs/warmup/toy-some-0.log: another process is already running this job")
    assert log.read_text() == "of the first process\n"
    os.close(held)
    spawn(folder, "warmup")


def test_a_lock_lasts_as_long_as_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    held = files.hold(lock)
    assert held is not None and files.hold(lock) is None
    os.close(held)
    again = files.hold(lock)
    assert again is not None
    os.close(again)


def test_locks_of_a_killed_snakemake_are_cleared_but_not_a_living_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / ".snakemake"

    def lock() -> Path:
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        (folder / "locks/0.output.lock").touch()
        return folder / "locks"

    engines.clear_locks(folder)  # holds it until the test's process ends …
    locks = lock()
    engines.clear_locks(folder)
    assert locks.exists() and capsys.readouterr().err.startswith("note: another snakemake is running in this folder")
    (folder / "alive.lock").rename(tmp_path / "old")  # … so stand in for its end
    (folder / "alive.lock").write_bytes((tmp_path / "old").read_bytes())
    engines.clear_locks(folder)
    assert not locks.exists() and capsys.readouterr().err == ""
    locks = lock()
    (folder / "alive.lock").unlink()
    (folder / "alive.lock").write_text("another-machine")
    engines.clear_locks(folder)
    assert locks.exists()


def opened(gate: Path) -> int:
    """The writing end of a pipe, as soon as somebody reads it."""
    for _ in range(1200):
        try:
            return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.1)
    pytest.fail("the first pipeline's job did not start")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["snakemake", "dvc"])
def test_a_second_engine_in_the_folder_is_refused(tmp_path: Path, engine: str) -> None:
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project", stub=True)
    gate = project.root / "gate"
    os.mkfifo(gate)
    waiting = "import os, sys\nopen('gate').read() if 'download' in sys.argv and os.path.exists('gate') else None\n"
    main = project.root / "dualteacher/__main__.py"
    main.write_text(waiting + main.read_text())
    command = {
        "snakemake": ("snakemake", "data/bluemarble/raw/manifest.json", "--quiet", "all"),
        "dvc": ("dvc", "repro", "download@bluemarble"),
    }[engine]
    first = threading.Thread(target=project, args=command)
    first.start()
    pipe = opened(gate)
    second = project(*command, code=None)
    gate.unlink()
    os.close(pipe)
    first.join()
    assert second.returncode != 0
    said = {"snakemake": "note: another snakemake is running in this folder", "dvc": "Unable to acquire lock"}[engine]
    busy = {"snakemake": said, "dvc": "is busy, it is being blocked by"}[engine]
    assert said in second.stderr or busy in second.stderr, second.stderr
    assert project.ran() == ["download bluemarble"]


def test_a_temporary_file_is_cleared_when_its_process_is_gone_whatever_the_clock_says(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for moment in (0, time.time(), time.time() + 1e9):
        left = tmp_path / ".x.json.0123.tmp.json"
        left.write_text("half")
        os.utime(left, (moment, moment))
        files.write_text(path, "whole")
        assert list(tmp_path.iterdir()) == [path]
    with files.atomic(path) as living:
        living.write_text("first")
        os.utime(living, (0, 0))
        files.write_text(path, "second")
        assert living.exists()
    assert path.read_text() == "first"


@pytest.mark.slow
@pytest.mark.parametrize("year", [1980, 2100])
def test_a_clock_that_jumps_changes_nothing(spawn: Spawner, finished: Path, tmp_path: Path, year: int) -> None:
    folder = copy(finished, tmp_path / "project")
    moment = (year - 1970) * 31_557_600
    for number, path in enumerate(sorted(folder.rglob("*"))):
        os.utime(path, (moment - number, moment - number))
    said = spawn(folder, *STAGES)
    assert said.count("made by this exact run") == 2  # warm-up and training
    assert content(folder) == content(finished)


@pytest.mark.slow
def test_no_stage_but_the_downloads_needs_or_asks_for_the_network(
    spawn: Spawner, finished: Path, tmp_path: Path
) -> None:
    """All stages of `finished` ran without a network (see `spawn`), and every attempt to reach one was written down."""
    attempts = finished.with_name("attempts")
    assert not attempts.exists(), attempts.read_text()
    watched = tmp_path / "attempts"
    spawn(tmp_path, ["weights-of-timm"], code=None, attempts=str(watched), probe="example.org")
    assert "example.org" in watched.read_text()  # the watch works
