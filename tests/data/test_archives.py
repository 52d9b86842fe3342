"""Archives are read, never unpacked: whatever is in them, nothing is written and nothing large is believed."""

from __future__ import annotations

import io
import re
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from made_up import as_folder, as_tar, as_zip

from dualteacher.data.fetch import archives
from dualteacher.system.errors import UserError

MEMBERS = {"a/one.txt": b"one" * 1000, "a/b/two.txt": b"", "three.txt": bytes(range(256))}
EVIL = ["/etc/absolute.txt", "../above.txt", "a/../../above.txt", "C:/drive.txt", "a\\..\\b.txt", "line\nbreak.txt"]
EVERY = re.compile("")


def make(kind: str, folder: Path, members: dict[str, bytes] = MEMBERS) -> Path:
    if kind == "folder":
        return as_folder(folder / "x", members)
    return as_zip(folder / "x.zip", members) if kind == "zip" else as_tar(folder / f"x.{kind}", members)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_files_are_read_in_any_order(tmp_path: Path, kind: str) -> None:
    reader = archives.open_reader(make(kind, tmp_path))
    assert sorted(reader.names) == sorted(MEMBERS)
    for name in [*reversed(reader.names), *reader.names]:
        assert reader.read(name) == MEMBERS[name]


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tgz"])
def test_files_are_read_in_one_pass(tmp_path: Path, kind: str) -> None:
    path = make(kind, tmp_path)
    assert dict(archives.each(path, EVERY)) == MEMBERS
    assert dict(archives.each(path, re.compile(r"(?:^|/)a/[^/]+$"))) == {"a/one.txt": MEMBERS["a/one.txt"]}


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_unsafe_names_are_left_out_in_one_line(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = make(kind, tmp_path, MEMBERS | dict.fromkeys(EVIL, b"evil"))
    before = sorted(tmp_path.rglob("*"))
    assert dict(archives.each(path, EVERY)) == MEMBERS
    assert sorted(tmp_path.rglob("*")) == before
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"{len(EVIL)} members skipped" in line and "\n" not in line


@pytest.mark.parametrize("kind", ["tar", "tgz"])
def test_links_and_devices_of_a_tar_are_left_out(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / f"x.{kind}"
    with tarfile.open(path, "w:gz" if kind == "tgz" else "w") as archive:
        for name, type_ in (("s.txt", tarfile.SYMTYPE), ("h.txt", tarfile.LNKTYPE), ("d.txt", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type_, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("good.txt")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"good"))
    assert dict(archives.each(path, EVERY)) == {"good.txt": b"good"}
    assert "3 members skipped" in caplog.text


def test_links_of_a_zip_are_left_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("good.txt", "good")
    assert dict(archives.each(tmp_path / "x.zip", EVERY)) == {"good.txt": b"good"}


def test_a_folder_with_a_circle_of_links_ends(tmp_path: Path) -> None:
    as_folder(tmp_path / "x", MEMBERS)
    (tmp_path / "x" / "a" / "up").symlink_to(tmp_path / "x")
    assert sorted(archives.open_reader(tmp_path / "x").names) == sorted(MEMBERS)


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz", "folder"])
def test_a_member_larger_than_any_image_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(kind, tmp_path, {"small.txt": b"x", "bomb.txt": bytes(5_000_000)})
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 2_000_000)
    assert list(archives.each(path, re.compile("small"))) == [("small.txt", b"x")]
    with pytest.raises(UserError, match=r"bomb\.txt.* claims 5 MB; the limit is 2 MB"):
        list(archives.each(path, EVERY))


def test_a_zip_that_understates_a_bomb_gives_no_more_than_it_states(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "x.zip", {"bomb.txt": bytes(50_000_000)})
    data = path.read_bytes().replace(struct.pack("<L", 50_000_000), struct.pack("<L", 1000))
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"'bomb\.txt': damaged"):
        archives.open_reader(path).read("bomb.txt")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_too_much_in_all_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(kind, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="refused as a decompression bomb"):
        patch.setattr(archives, "LARGEST_TOTAL", 3000)
        list(archives.each(path, EVERY))
    with monkeypatch.context() as patch, pytest.raises(UserError, match="refused as a decompression bomb"):
        patch.setattr(archives, "MOST_MEMBERS", 2)
        list(archives.each(path, EVERY))


@pytest.mark.parametrize("kind", ["tar", "tgz"])
def test_a_tar_header_that_claims_gigabytes_is_not_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 2_000_000)
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 32
    raw = header.tobuf(tarfile.GNU_FORMAT) + bytes(5_000_000)
    path = tmp_path / f"x.{kind}"
    if kind == "tgz":
        import gzip

        raw = gzip.compress(raw)
    path.write_bytes(raw)
    with pytest.raises(UserError, match="header claims"):
        list(archives.each(path, EVERY))


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_what_is_cut_off_is_one_line(tmp_path: Path, kind: str, share: float) -> None:
    path = make(kind, tmp_path, {f"{i}.bin": bytes(range(256)) * 40 for i in range(20)})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"x\.(zip|tar|tgz): .*(damaged|truncated)") as caught:
        list(archives.each(path, EVERY))
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_a_zip_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", b"values" * 100)
    data = bytearray(path.read_bytes())
    data[data.index(b"valuesvalues")] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"'a\.txt': damaged"):
        archives.open_reader(path).read("a.txt")


def test_a_password_is_one_line(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "x.zip", {"a.txt": b"secret"})
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"cannot be unpacked .*password.*repack"):
        archives.open_reader(path).read("a.txt")


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"\x1f\x8bnor this"])
def test_what_is_no_archive_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=r"x: "):
        list(archives.each(tmp_path / "x", EVERY))
    with pytest.raises(UserError, match="no such file"):
        archives.open_reader(tmp_path / "y")
