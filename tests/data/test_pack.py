"""A pack gives back what was put in, in any order, and refuses what it did not write."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from dualteacher.data import pack as pack_module
from dualteacher.data.pack import SCHEMA, Pack, PackWriter, Sample
from dualteacher.system import files
from dualteacher.system.errors import UserError


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def image_of(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (5 + i % 3, 7, 3), dtype=np.uint8)


def mask_of(i: int) -> np.ndarray:
    return np.random.default_rng(i).choice(np.array([0, 1, 255], np.uint8), (5 + i % 3, 7))


def samples(number: int) -> Iterator[Sample]:
    """Every third has no mask, every fourth no block."""
    for i in range(number):
        mask = png(mask_of(i)) if i % 3 else None
        yield Sample(f"image{i:05d}", png(image_of(i)), mask, 5 + i % 3, 7, f"block{i // 5}" if i % 4 else None)


def write(path: Path, number: int) -> Path:
    with PackWriter(path, "made_up", 2) as writer:
        for sample in samples(number):
            writer.add(sample)
    return path


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pack_module, "BATCH_ROWS", 7)  # rows lie in many record batches
    return write(tmp_path / "train.arrow", 40)


def test_rows_come_back_in_any_order(path: Path) -> None:
    pack = Pack(path)
    assert (len(pack), pack.dataset, pack.num_classes) == (40, "made_up", 2)
    assert pack.ids == [sample.image_id for sample in samples(40)]
    assert pack.blocks == [sample.block for sample in samples(40)]
    for i in np.random.default_rng(0).permutation(40).tolist():
        assert np.array_equal(pack.image(i), image_of(i))
        assert pack.size(i) == pack.image(i).shape[:2]
        assert pack.index(pack.ids[i]) == i
        mask = pack.mask(i)
        assert pack.has_mask(i) == (mask is not None) == bool(i % 3)
        assert mask is None or np.array_equal(mask, mask_of(i))
    pack.image(0)[:] = 0  # the caller's own copy
    assert np.array_equal(pack.image(0), image_of(0))
    assert pack.damaged() == []


def test_unknown_rows_and_ids(path: Path) -> None:
    pack = Pack(path)
    for i in (-1, 40):
        with pytest.raises(IndexError):
            pack.image(i)
    with pytest.raises(UserError, match="contains no image 'elsewhere'"):
        pack.index("elsewhere")


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    assert files.sha256(write(tmp_path / "a.arrow", 20)) == files.sha256(write(tmp_path / "b.arrow", 20))


def _digest(task: tuple[Pack, int]) -> str:
    pack, i = task
    return hashlib.sha256(pack.image(i).tobytes()).hexdigest()


def test_loader_workers_can_use_it(path: Path) -> None:
    pack = Pack(path)
    again = pickle.loads(pickle.dumps(pack))  # noqa: S301, what a spawned worker does
    assert len(pickle.dumps(pack)) < 1000
    assert np.array_equal(again.image(33), image_of(33))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(_digest, [(pack, i) for i in range(40)])
    assert found == [hashlib.sha256(image_of(i).tobytes()).hexdigest() for i in range(40)]


def test_twenty_thousand_rows_open_without_copying_the_images(tmp_path: Path) -> None:
    path = tmp_path / "large.arrow"
    image = png(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    with PackWriter(path, "large", 2) as writer:
        for i in range(20_000):
            writer.add(Sample(f"image{i}", image, None, 20, 30))
    before = pa.total_allocated_bytes()
    pack = Pack(path)
    assert pa.total_allocated_bytes() - before < 1_000_000 < path.stat().st_size / 20
    began = time.perf_counter()
    for i in range(0, 20_000, 20):
        assert pack.encoded(i).size == len(image)
    assert time.perf_counter() - began < 1  # a scan of the batches for each row would take far longer


def test_two_images_may_not_share_an_id(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="two images share the id 'image00000'"),
        PackWriter(tmp_path / "a.arrow", "x", 2) as writer,
    ):
        for _ in range(2):
            writer.add(next(samples(1)))
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_writing_keeps_the_old_pack(path: Path) -> None:
    before = files.sha256(path)
    with pytest.raises(RuntimeError), PackWriter(path, "x", 2) as writer:
        for sample in samples(20):
            writer.add(sample)
        raise RuntimeError
    assert files.sha256(path) == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_full_disk(path: Path, mode: str) -> io.FileIO:
        path.touch()
        return open("/dev/full", mode, buffering=0)  # type: ignore[return-value]

    monkeypatch.setattr(pack_module, "open", on_full_disk, raising=False)
    with pytest.raises(UserError, match="disk is full; make room"):
        write(tmp_path / "a.arrow", 3)
    assert list(tmp_path.iterdir()) == []


def test_killed_in_mid_write_nothing_half_written_is_at_the_path(tmp_path: Path) -> None:
    path = tmp_path / "train.arrow"
    program = f"""
from pathlib import Path
from dualteacher.data.pack import PackWriter, Sample
with PackWriter(Path({str(path)!r}), "x", 1) as writer:
    for i in range(10**9):
        writer.add(Sample(str(i), bytes(100_000), None, 1, 1))
        if i == 300:
            print("going", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not path.exists()
    write(path, 3)  # and what it left is in nobody's way
    assert len(Pack(path)) == 3


def refused(path: Path, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        Pack(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_foreign_files_are_refused_in_one_line(tmp_path: Path) -> None:
    refused(tmp_path / "none.arrow", "no such file; run the prepare stage")
    refused(tmp_path, "not a pack")
    path = tmp_path / "x.arrow"
    path.touch()
    refused(path, "empty")
    path.write_bytes(png(image_of(0)))
    refused(path, "not a pack")
    for table, why in [
        (pa.table({"a": [1]}), "not a pack of this project"),
        (SCHEMA.empty_table(), "not a pack"),
        (SCHEMA.with_metadata({"dualteacher.format": "7"}).empty_table(), "pack format 7, this program reads 3"),
    ]:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
        refused(path, why)


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_pack_is_refused_in_one_line(path: Path, share: float) -> None:
    short = path.with_name("short.arrow")
    short.unlink(missing_ok=True)  # not written over: an earlier example may still have it mapped
    data = path.read_bytes()
    short.write_bytes(data[: int(share * len(data))])
    refused(short, "not a pack|empty")


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_never_ends_in_a_traceback(path: Path, share: float, bit: int) -> None:
    flipped = path.with_name("flipped.arrow")
    flipped.unlink(missing_ok=True)
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 1 << bit
    flipped.write_bytes(data)
    try:
        pack = Pack(flipped)
        for i in range(len(pack)):
            pack.image(i)
            pack.mask(i)
        pack.damaged()
    except UserError:
        pass


def test_a_damaged_image_is_found(path: Path) -> None:
    data = bytearray(path.read_bytes())
    start = data.index(png(image_of(17)))
    data[start + 60] ^= 1
    path.unlink()
    path.write_bytes(data)
    assert Pack(path).damaged() == ["image00017"]
