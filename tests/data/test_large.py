"""Twenty thousand images: prepared in bounded memory, and no burden to either engine afterwards."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from made_up import png, stripes
from PIL import Image

from dualteacher.data.pack import Pack
from dualteacher.data.sources import ade20k
from dualteacher.workflow import presets

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PADDING = 24_000  # bytes behind each small picture, so that all of them weigh more than the memory allowed


def write_zip(path: Path) -> None:
    """A zip of ADE20K's layout and numbers, each image small but its own."""
    masks = [png(stripes([i, 150, 0])) for i in range(1, 151)]
    random = np.random.default_rng(0)
    padding = random.bytes(PADDING)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for folder, prefix, number in ade20k.SPLITS.values():
            for i in range(1, number + 1):
                file = io.BytesIO()
                Image.fromarray(random.integers(0, 256, (20, 28, 3), dtype=np.uint8)).save(file, "JPEG")
                name = f"{prefix}{i:08d}"
                archive.writestr(f"A/images/{folder}/{name}.jpg", file.getvalue() + padding)
                archive.writestr(f"A/annotations/{folder}/{name}.png", masks[i % 150])


MEASURED = r"""
import re, resource, sys
from dualteacher import cli
sys.argv = ["dualteacher", "prepare", "--dataset", "ade20k"]
try:
    cli.main()
finally:
    # Linux counts what was there before exec() as well, which is the tests' own memory: ask for the peak since.
    status = open("/proc/self/status").read() if sys.platform == "linux" else ""
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    used = int(peak[1]) << 10 if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("peak", used)
"""


class Run:
    """A command in the copy: what it said, and the processor time it took (a busy machine does not count)."""

    def __init__(self, folder: Path, *command: str) -> None:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        began = time.monotonic()
        with open(folder / "said.txt", "w+") as said:
            child = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            said.seek(0)
            self.text = said.read()
        waited, self.seconds = time.monotonic() - began, usage.ru_utime + usage.ru_stime
        assert child.returncode == 0, f"{command}\n{self.text}"
        print(f"{Path(command[0]).name} {command[-1][:40]!r}: {waited:.1f} s, {self.seconds:.1f} s of work")


def test_twenty_thousand_images(project_copy: Path) -> None:
    folder = project_copy
    write_zip(folder / "archive.zip")
    raw = presets.load("tiny", ROOT / "presets")
    raw["datasets"] = {"ade20k": {"source": "ade20k", "archive": "archive.zip", "lists": False}}
    raw["grid"]["dataset"] = ["ade20k"]
    (folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    # In this copy alone, the made-up archive is the published one.
    source = folder / "dualteacher/data/sources/ade20k.py"
    with open(folder / "archive.zip", "rb") as file:
        digest = hashlib.file_digest(file, "sha1").hexdigest()
    text = source.read_text()
    assert ade20k.ARCHIVE.digest in text
    source.write_text(text.replace(ade20k.ARCHIVE.digest, digest))

    Run(folder, "dvc", "init", "--quiet", "--no-scm", "--force")
    Run(folder, sys.executable, "-m", "dualteacher", "download", "--dataset", "ade20k")
    for end in (signal.SIGKILL, signal.SIGINT):
        left = stop_in_the_middle(folder, end)
        assert left == (end == signal.SIGKILL)  # nobody can clear up after that: the next run does, an hour later
        assert not (folder / "data/ade20k/train.arrow").exists() and not (folder / "data/ade20k/val.arrow").exists()
    for path in (folder / "data/ade20k").glob(".*"):
        os.utime(path, (0, 0))
    prepared = Run(folder, sys.executable, "-c", MEASURED)
    peak = int(prepared.text.split()[-1])
    train = Pack(folder / "data/ade20k/train.arrow")
    assert len(train) == 20210 and train.num_classes == 150
    assert not list((folder / "data/ade20k").glob(".*"))
    size = train.path.stat().st_size
    assert size > 500e6
    assert peak < 0.9 * size, f"{peak / 1e6:.0f} MB of memory: all images were there at once"

    Run(folder, "dvc", "commit", "--force", "--quiet", "download@ade20k", "prepare@ade20k")
    status = Run(folder, "dvc", "status")
    assert "partition@" in status.text and "prepare@" not in status.text
    plan = Run(folder, "snakemake", "--dry-run")
    assert "partition" in plan.text
    for run in (status, plan):
        assert run.seconds < 5, "an engine looks at every image"


def stop_in_the_middle(folder: Path, end: signal.Signals) -> bool:
    """Prepare until something of the training images is written, then send `end`; True if a half file is left."""
    before = set((folder / "data/ade20k").glob(".train.arrow.*"))
    command = [sys.executable, "-m", "dualteacher", "prepare", "--dataset", "ade20k"]
    child = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    while child.poll() is None:
        halves = set((folder / "data/ade20k").glob(".train.arrow.*")) - before
        if any(path.stat().st_size > 1e7 for path in halves):
            child.send_signal(end)
            break
        time.sleep(0.02)
    assert child.wait() == (-end if end == signal.SIGKILL else 130)
    return bool(set((folder / "data/ade20k").glob(".train.arrow.*")) - before)


@pytest.fixture
def project_copy(tmp_path: Path) -> Iterator[Path]:
    """What the engines need of the project."""
    for name in ("Snakefile", "workflow", "profiles", "dualteacher", "dvc.yaml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    (tmp_path / "own_data").mkdir()
    yield tmp_path
    shutil.rmtree(tmp_path)  # some gigabytes, which pytest would keep
