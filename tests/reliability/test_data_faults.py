"""Damaged, missing and odd data: noticed by whoever reads it, told in one line, never believed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from dualteacher.data import pack as pack_module
from dualteacher.data import partition
from dualteacher.data.pack import Pack
from dualteacher.system.errors import UserError
from dualteacher.training.checkpoint import Store

from ..core.conftest import png, write_pack
from .conftest import STAGES, Spawner, content, copy, parameters, write_images, write_parameters

RUN = "results/runs/toy/some/dual_teacher/seed0"
READERS = {  # file: (a stage that reads it, what must be gone for it to do its work)
    "data/toy/raw/manifest.json": ("prepare", "data/toy/train.arrow"),
    "own_data/images/photo03.png": ("prepare", "data/toy/train.arrow"),
    "data/toy/train.arrow": ("partition", "data/toy/partitions/some/seed0.parquet"),
    "data/toy/stats.parquet": ("partition", "data/toy/partitions/some/seed0.parquet"),
    "data/toy/val.arrow": ("evaluate", f"{RUN}/metrics.json"),
    "data/weights/mobilenetv2_100.safetensors": ("warmup", "results/runs/toy/some/warmup/seed0/student.safetensors"),
    "data/toy/partitions/some/seed0.parquet": ("train", f"{RUN}/student.safetensors"),
    "results/runs/toy/some/warmup/seed0/student.safetensors": ("train", f"{RUN}/student.safetensors"),
    f"{RUN}/student.safetensors": ("evaluate", f"{RUN}/metrics.json"),
    f"{RUN}/history.parquet": ("evaluate", f"{RUN}/metrics.json"),
    f"{RUN}/metrics.json": ("report", "results/summary.json"),
    f"{RUN}/per_class.parquet": ("report", "results/summary.json"),
    f"{RUN}/confusion.parquet": ("report", "results/summary.json"),
    f"{RUN}/cost.json": ("report", "results/summary.json"),
    "data/toy/classes.json": ("report", "results/summary.json"),
    "data/toy/partitions/some/seed0.provenance.json": ("report", "results/summary.json"),
}


def one_line(said: str, *words: str) -> str:
    """The only line of an error, behind what the log told; it must hold `words`."""
    assert "Traceback" not in said, said
    # of a killed process' semaphores Python itself may speak afterwards, in two lines
    lines = [line for line in said.strip().splitlines() if "resource_tracker" not in line]
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0], said
    for word in words:
        assert word in errors[0], errors[0]
    return errors[0]


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Flip a bit behind the back of whoever looks at the file's time, in a new file (the old one may be mapped)."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_noticed_or_changes_nothing(spawn: Spawner, finished: Path, tmp_path: Path, name: str) -> None:
    """Where a flip falls on padding or a file's own bookkeeping, the stage may do its work: with the same results."""
    folder = copy(finished, tmp_path / "project")
    stage, output = READERS[name]
    size, rng = (folder / name).stat().st_size, random.Random(name)
    for place in (size // 2, rng.randrange(size)):
        sound = (folder / name).read_bytes()
        expected = (folder / output).read_bytes()
        (folder / output).unlink()
        flip(folder / name, place, rng.randrange(8))
        said = spawn(folder, stage, code=None)
        if spawn.code:
            assert spawn.code == 2, f"{place}: {said}"
            one_line(said, Path(name).name if "manifest" not in name else "data/toy/raw")
            assert not (folder / output).exists()
        elif output.endswith("safetensors"):  # whose description has the hash of the inputs' files
            assert weights_of((folder / output).read_bytes()) == weights_of(expected), place
        else:
            assert (folder / output).read_bytes() == expected, place
        (folder / name).write_bytes(sound)
        (folder / output).write_bytes(expected)


def weights_of(data: bytes) -> dict[str, bytes]:
    """The tensors of a safetensors file."""
    return {key: value.numpy().tobytes() for key, value in safetensors.torch.load(data).items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_deleted_file_is_named(spawn: Spawner, finished: Path, tmp_path: Path, name: str) -> None:
    folder = copy(finished, tmp_path / "project")
    (folder / name).unlink()
    said = spawn(folder, READERS[name][0], code=2)
    one_line(said, Path(name).name)


def test_every_flipped_bit_of_a_pack_is_noticed_or_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "BATCH_ROWS", 2)
    path = write_pack(tmp_path / "train.arrow", 5, seed=1, unmasked=1)
    before, data = decoded(Pack(path)), path.read_bytes()
    rng, noticed = random.Random(3), 0
    for number in range(300):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        other = tmp_path / f"flipped{number}.arrow"
        other.write_bytes(flipped)
        try:
            assert decoded(Pack(other)) == before
        except UserError as error:
            assert str(other) in str(error) and "\n" not in str(error)
            noticed += 1
        other.unlink()
    assert noticed > 150


def decoded(pack: Pack) -> list:
    """All that a pack gives."""
    return [
        (pack.ids[i], pack.blocks[i], pack.size(i), pack.num_classes, pack.image(i).tobytes(),
         None if (mask := pack.mask(i)) is None else mask.tobytes())
        for i in range(len(pack))
    ]  # fmt: skip


def test_a_flipped_bit_of_a_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.load alone would read it, with another number in it."""
    import torch

    monkeypatch.chdir(tmp_path)
    store = Store("run", {"parameters": {}}, 5)
    for step in (1, 2):
        store.save(step, {"step": step, "value": torch.full((1000,), float(step))})
    newest = max(store.folder.glob("*.pt"))
    flip(newest, newest.read_bytes().index(torch.full((8,), 2.0).numpy().tobytes()) + 2)
    assert torch.load(newest, weights_only=True)["step"] == 2
    state = store.load(torch.device("cpu"))
    assert state is not None and state["step"] == 1


def test_a_changed_partition_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "seed0.parquet"
    partition.write(path, ["a", "b", "c"], ["b"])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x01\x00\x00\x00c", b"\x01\x00\x00\x00d"))
    assert path.read_bytes() != data
    with pytest.raises(UserError, match=r"damaged.*remove it and run the partition stage again"):
        partition.read(path)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_in_mid_training_stops_it_and_keeps_the_checkpoint(
    spawn: Spawner, finished: Path, tmp_path: Path, workers: int
) -> None:
    folder = copy(finished, tmp_path / "project")
    write_parameters(folder, parameters(runtime=parameters()["runtime"] | {"workers": workers}))
    (folder / RUN / "student.safetensors").unlink()
    pack = folder / "data/toy/train.arrow"
    sound, opened = pack.read_bytes(), Pack(pack)
    labelled = partition.read(folder / "data/toy/partitions/some/seed0.parquet")[0]
    wanted = opened.encoded(opened.index(labelled[0])).to_pybytes()
    flip(pack, sound.index(wanted) + len(wanted) // 2)
    said = spawn(folder, "train", code=2)
    one_line(said, f"train.arrow: damaged at image {labelled[0]}; remove the file and run the same command again")
    pack.write_bytes(sound)
    write_parameters(folder, parameters())  # the number of loader processes changes no byte, only the time of the test
    spawn(folder, "train")
    assert content(folder, "results/runs") == content(finished, "results/runs")


@pytest.mark.slow
def test_a_killed_loader_process_is_one_line_and_the_run_goes_on(
    spawn: Spawner, finished: Path, tmp_path: Path
) -> None:
    folder = copy(finished, tmp_path / "project")
    write_parameters(folder, parameters(runtime=parameters()["runtime"] | {"workers": 1}))
    (folder / RUN / "student.safetensors").unlink()
    said = spawn(folder, "train", code=2, kill_loader_at=3)
    one_line(said, "a loader process was killed", "run the same command to resume from the last checkpoint")
    write_parameters(folder, parameters())
    said = spawn(folder, "train")
    assert "resuming from step" in said
    assert content(folder, "results/runs") == content(finished, "results/runs")


@pytest.mark.slow
def test_loader_processes_end_with_a_killed_run(spawn: Spawner, finished: Path, tmp_path: Path) -> None:
    folder = copy(finished, tmp_path / "project")
    write_parameters(folder, parameters(runtime=parameters()["runtime"] | {"workers": 1}))
    (folder / RUN / "student.safetensors").unlink()
    spawn(folder, "train", code=-9, kill_loader_at=1, pids=str(tmp_path / "pids"))
    (worker,) = map(int, (tmp_path / "pids").read_text().split())
    for _ in range(300):
        if not Path(f"/proc/{worker}").exists():
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the loader process outlived its run")


@pytest.mark.slow
def test_more_loader_processes_than_cores(spawn: Spawner, finished: Path, tmp_path: Path) -> None:
    folder = copy(finished, tmp_path / "project")
    runtime = parameters()["runtime"] | {"workers": (os.cpu_count() or 1) + 1}
    write_parameters(folder, parameters(runtime=runtime))
    (folder / RUN / "student.safetensors").unlink()
    spawn(folder, "train")
    assert content(folder, RUN) == content(finished, RUN)


@pytest.mark.slow
def test_odd_images_go_through_all_stages(spawn: Spawner, tmp_path: Path) -> None:
    """1×1 pixel, 20,000 pixels wide, a mask of one class; one labelled image."""
    folder = tmp_path / "project"
    folder.mkdir()
    raw = parameters(partition={"some": parameters()["partition"]["some"] | {"count": 1}})
    raw["datasets"]["toy"]["validation"] = {"share": None, "images": "val/images", "masks": "val/masks"}
    raw["train"]["steps"], raw["warmup"]["steps"] = 2, 1
    write_parameters(folder, raw)
    write_images(folder / "own_data", labelled=3, unlabelled=1)
    rng = np.random.default_rng(2)
    sizes = {"pixel": (1, 1), "wide": (2, 20_000), "flat": (40, 40)}
    for where in ("", "val/"):
        for name, size in sizes.items():
            mask = np.full(size, 1, np.uint8) if name == "flat" else rng.integers(0, 3, size, dtype=np.uint8)
            image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            for kind, pixels in (("images", image), ("masks", mask)):
                (folder / "own_data" / where / kind).mkdir(parents=True, exist_ok=True)
                (folder / "own_data" / where / kind / f"{name}.png").write_bytes(png(pixels))
    spawn(folder, *STAGES)
    metrics = json.loads((folder / RUN / "metrics.json").read_text())
    assert metrics["images"] == 3 and 0 <= metrics["miou"] <= 1
    assert len(partition.read(folder / "data/toy/partitions/some/seed0.parquet")[0]) == 1


@pytest.mark.slow
def test_no_labelled_image_is_one_line(spawn: Spawner, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    write_parameters(folder, parameters())
    write_images(folder / "own_data")
    shutil.rmtree(folder / "own_data/masks")
    said = spawn(folder, "download", "prepare", "partition", code=2)
    one_line(said, "own_data")
    write_parameters(folder, parameters(partition={"some": parameters()["partition"]["some"] | {"count": 0}}))
    one_line(spawn(folder, "partition", code=2), "partition.some.count")
