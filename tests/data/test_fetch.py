"""Archives arrive whole and verified or not at all; what is there needs no network."""

from __future__ import annotations

import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from dualteacher import cli
from dualteacher.data.fetch import archives, manifest, wheel
from dualteacher.data.fetch.wheel import Wheel
from dualteacher.data.sources import bluemarble
from dualteacher.system import files
from dualteacher.system.errors import UserError
from dualteacher.workflow import presets

NAME, VERSION = "tiny-data", "1.0"


def make_wheel(folder: Path, payload: bytes = b"payload") -> str:
    """A valid wheel of NAME in `folder`; its sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tiny_data-{VERSION}-py3-none-any.whl"
    info = f"tiny_data-{VERSION}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_data/values.bin", payload)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n")
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return files.sha256(path)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index that is a folder: pip looks nowhere else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def nothing_in(folder: Path) -> bool:
    return not folder.exists() or not list(folder.iterdir())


def test_a_wheel_is_fetched_once_and_then_needs_no_network(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = make_wheel(index)
    raw = tmp_path / "raw"
    first = Wheel(NAME, VERSION, digest).fetch(raw)
    assert files.sha256(first) == digest
    assert list(raw.iterdir()) == [first]

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("pip was called")

    monkeypatch.setattr(subprocess, "run", no_network)
    assert Wheel(NAME, VERSION, digest).fetch(raw) == first
    assert archives.read_member(first, "tiny_data/values.bin") == b"payload"


def test_a_wrong_hash_is_refused_and_leaves_nothing(index: Path, tmp_path: Path) -> None:
    digest = make_wheel(index)
    with pytest.raises(UserError, match=f"sha256 {digest}, expected {'0' * 64}"):
        Wheel(NAME, VERSION, "0" * 64).fetch(tmp_path / "raw")
    assert nothing_in(tmp_path / "raw")


def test_a_damaged_file_on_disk_is_fetched_again(index: Path, tmp_path: Path) -> None:
    digest = make_wheel(index)
    raw = tmp_path / "raw"
    path = Wheel(NAME, VERSION, digest).fetch(raw)
    path.write_bytes(path.read_bytes()[:-20])
    assert files.sha256(Wheel(NAME, VERSION, digest).fetch(raw)) == digest


def test_our_own_check_does_not_trust_the_package_client(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index)

    def careless(*_: object) -> Path:
        return next(index.glob("*.whl"))

    monkeypatch.setattr(wheel, "_pip_download", careless)
    with pytest.raises(UserError, match="sha256 is"):
        Wheel(NAME, VERSION, "0" * 64).fetch(tmp_path / "raw")
    assert nothing_in(tmp_path / "raw")


def test_no_network_is_one_line(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(UserError, match="cannot be reached; check the network"):
        Wheel(NAME, VERSION, "0" * 64).fetch(tmp_path / "raw")
    assert nothing_in(tmp_path / "raw")


def test_a_release_that_is_not_offered_is_one_line(index: Path, tmp_path: Path) -> None:
    index.mkdir()
    with pytest.raises(UserError, match=r"tiny-data 1\.0: the package index does not offer it"):
        Wheel(NAME, VERSION, "0" * 64).fetch(tmp_path / "raw")
    assert nothing_in(tmp_path / "raw")


def test_a_full_disk_is_one_line(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(command: list[str], **_: object) -> subprocess.CompletedProcess:
        (Path(command[-1]) / "half.whl.part").parent.mkdir()
        (Path(command[-1]) / "half.whl.part").write_bytes(b"half")
        said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
        return subprocess.CompletedProcess(command, 1, None, said)

    monkeypatch.setattr(subprocess, "run", full)
    with pytest.raises(UserError, match="disk is full; make room"):
        Wheel(NAME, VERSION, "0" * 64).fetch(tmp_path / "raw")
    assert nothing_in(tmp_path / "raw")


def test_what_a_killed_download_left_is_cleared_later(index: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    old, young = raw / ".fetch-old", raw / ".fetch-young"
    for left in (old, young):
        left.mkdir(parents=True)
        (left / "half.whl").write_bytes(b"half")
    os.utime(old, (0, 0))
    Wheel(NAME, VERSION, make_wheel(index)).fetch(raw)
    assert not old.exists()
    assert young.exists()  # perhaps another process is at it


def test_the_command_ends_with_one_line_and_code_2(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make_wheel(index)
    presets.use("bluemarble", params=tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bluemarble, "BASEMAP", Wheel(NAME, VERSION, "0" * 64))
    monkeypatch.setattr("sys.argv", ["dualteacher", "download", "--dataset", "bluemarble"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    assert [line for line in errors.splitlines() if line.startswith("error: tiny-data 1.0: ")]
    assert not Path("data/bluemarble/raw/manifest.json").exists()


def test_reading_a_member_says_what_is_wrong(tmp_path: Path) -> None:
    make_wheel(tmp_path, payload=b"values" * 100)
    path = next(tmp_path.glob("*.whl"))
    member = "tiny_data/values.bin"
    digest = hashlib.sha256(b"values" * 100).hexdigest()
    assert archives.read_member(path, member, digest) == b"values" * 100
    with pytest.raises(UserError, match="contains no other"):
        archives.read_member(path, "other")
    with pytest.raises(UserError, match="expected sha256"):
        archives.read_member(path, member, "0" * 64)
    with pytest.raises(UserError, match="no such file; run the download stage"):
        archives.read_member(tmp_path / "none.whl", member)
    data = bytearray(path.read_bytes())
    data[data.index(b"valuesvalues")] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        archives.read_member(path, member)
    path.write_bytes(b"no zip at all")
    with pytest.raises(UserError, match="damaged"):
        archives.read_member(path, member)


def test_other_algorithms_for_archives_published_with_them(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar"
    path.write_bytes(b"old archive")
    manifest.verify(path, hashlib.md5(b"old archive").hexdigest(), "md5")
    with pytest.raises(UserError, match="sha1 is"):
        manifest.verify(path, "0" * 40, "sha1")


class Told:
    """An archive as the manifest sees it."""

    def __init__(self, version: str) -> None:
        self.version = version

    def fetch(self, folder: Path) -> Path:
        raise AssertionError("not called")

    def describe(self) -> dict[str, str]:
        return {"package": NAME, "version": self.version}


def test_the_manifest_names_the_archives_and_notices_changes(tmp_path: Path) -> None:
    beside, elsewhere = tmp_path / "raw" / "a.whl", tmp_path / "b.zip"
    for path in (beside, elsewhere):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(path.name.encode())
    listing = tmp_path / "raw" / "manifest.json"
    published = [Told("1.0"), Told("2.0")]
    manifest.write(listing, published, [beside, elsewhere])
    assert manifest.read(listing, published) == [beside, elsewhere]
    assert '"file": "a.whl"' in listing.read_text()
    for other in ([Told("1.0"), Told("2.1")], [Told("1.0")], [*published, Told("3.0")]):
        with pytest.raises(UserError, match="not the archives that"):
            manifest.read(listing, other)
    beside.write_bytes(b"changed")
    with pytest.raises(UserError, match="sha256 is"):
        manifest.read(listing, published)
    beside.unlink()
    with pytest.raises(UserError, match="run the download stage"):
        manifest.read(listing, published)
    listing.write_text("[1]")
    with pytest.raises(UserError, match="not a manifest"):
        manifest.read(listing, published)
