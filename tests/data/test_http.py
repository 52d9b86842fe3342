"""A download ends with the published file or with one line, whatever the server does; nothing is fetched twice."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from web import Site, serving

from dualteacher.data.fetch import http
from dualteacher.data.fetch.http import Download
from dualteacher.system.errors import UserError

CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No waiting, no proxies, small pieces; the pauses that would have been made."""
    pauses: list[float] = []
    monkeypatch.setattr(http.time, "sleep", pauses.append)
    monkeypatch.setattr(http, "CHUNK", 1000)
    monkeypatch.setattr(http, "PROGRESS", 50_000)
    monkeypatch.setattr(http, "TIMEOUT", (5, 0.5))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return pauses


def wanted(*addresses: str, content: bytes = CONTENT, size: int | None = None, algorithm: str = "sha256") -> Download:
    return Download("sub/data.zip", addresses, hashlib.new(algorithm, content).hexdigest(), algorithm, size)


def only(folder: Path, *names: str) -> bool:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == sorted(names)


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_a_file_is_fetched_verified_and_then_needs_no_network(site: Site, tmp_path: Path, algorithm: str) -> None:
    download = wanted(site.put("/data.zip", CONTENT), algorithm=algorithm)
    path = download.fetch(tmp_path)
    assert path.read_bytes() == CONTENT
    assert only(tmp_path, "sub/data.zip")
    assert download.fetch(tmp_path) == path
    assert len(site.requests) == 1


def test_a_cut_connection_is_gone_on_with_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.mischief.extend(["cut 100000", "cut 50000", "cut 90000"])
    assert wanted(site.put("/data.zip", CONTENT)).fetch(tmp_path).read_bytes() == CONTENT
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for _, asked, _ in site.requests[1:] if asked]
    assert starts == [100_000, 150_000, 240_000]
    assert all(condition for _, _, condition in site.requests[1:])  # If-Range: never two versions in one file


def test_a_server_without_ranges_starts_again_and_still_succeeds(site: Site, tmp_path: Path) -> None:
    site.mischief.extend(["cut 100000", "no ranges"])
    assert wanted(site.put("/data.zip", CONTENT)).fetch(tmp_path).read_bytes() == CONTENT
    assert len(site.requests) == 2


def test_a_file_that_changed_on_the_server_is_not_mixed_with_the_old_one(site: Site, tmp_path: Path) -> None:
    address = site.put("/data.zip", bytes(len(CONTENT)))
    site.mischief.extend(["cut 100000", "403"])
    with pytest.raises(UserError, match="HTTP 403"):
        wanted(address).fetch(tmp_path)
    site.put("/data.zip", CONTENT)
    assert wanted(address).fetch(tmp_path).read_bytes() == CONTENT
    assert len(site.requests) == 3  # If-Range: the new version came at once


def test_a_lie_about_the_length_is_no_file(site: Site, tmp_path: Path, quick: list[float]) -> None:
    site.always = "lie 1000"
    with pytest.raises(UserError, match=r"127\.0\.0\.1:\d+: .*gave up after 4 tries.*put it at .*sub/data\.zip"):
        wanted(site.put("/data.zip", CONTENT)).fetch(tmp_path)
    assert not (tmp_path / "sub/data.zip").exists()
    waited = [pause for pause in quick if pause]
    assert waited == sorted(waited) and len(site.requests) <= 10  # waits longer each time, and not for ever


def test_another_length_than_published_is_refused_before_the_body(site: Site, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="offers 300000 bytes, expected 299999"):
        wanted(site.put("/data.zip", CONTENT), size=299_999).fetch(tmp_path)
    assert only(tmp_path)


def test_an_endless_body_is_stopped(site: Site, tmp_path: Path) -> None:
    site.always = "endless"
    with pytest.raises(UserError, match="sends more than the 300000 bytes"):
        wanted(site.put("/data.zip", CONTENT), size=300_000).fetch(tmp_path)


def test_wrong_bytes_are_refused_and_another_mirror_is_tried(site: Site, tmp_path: Path) -> None:
    bad, gone = site.put("/bad.zip", CONTENT[::-1]), f"{site.address}/gone.zip"
    with pytest.raises(UserError, match=r"HTTP 404.*serves a file with sha256 [0-9a-f]{64}, expected"):
        wanted(gone, bad).fetch(tmp_path)
    assert only(tmp_path)
    assert wanted(gone, bad, site.put("/good.zip", CONTENT)).fetch(tmp_path).read_bytes() == CONTENT
    assert only(tmp_path, "sub/data.zip")


def test_what_one_mirror_began_another_one_ends(site: Site, tmp_path: Path) -> None:
    first, second = site.put("/first.zip", CONTENT), site.put("/second.zip", CONTENT)
    site.mischief.extend(["cut 120000", "404"])
    assert wanted(first, second).fetch(tmp_path).read_bytes() == CONTENT
    assert site.requests[-1] == ("/second.zip", "bytes=120000-", None)


def test_a_wrong_beginning_is_found_and_fetched_afresh(site: Site, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/data.zip.part").write_bytes(bytes(1000))
    assert wanted(site.put("/data.zip", CONTENT)).fetch(tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked, _ in site.requests] == ["bytes=1000-", None]


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more"], ids=["whole", "too long"])
def test_a_part_that_is_whole_or_longer(site: Site, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/data.zip.part").write_bytes(left)
    assert wanted(site.put("/data.zip", CONTENT), size=len(CONTENT)).fetch(tmp_path).read_bytes() == CONTENT
    assert len(site.requests) == (0 if left == CONTENT else 2)


def test_another_range_than_asked_for_is_noticed(site: Site, tmp_path: Path) -> None:
    site.mischief.extend(["cut 100000", "other range"])
    assert wanted(site.put("/data.zip", CONTENT)).fetch(tmp_path).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_after_as_long_as_it_says(site: Site, tmp_path: Path, quick: list[float]) -> None:
    site.mischief.extend(["503", "429 7", "500"])
    assert wanted(site.put("/data.zip", CONTENT)).fetch(tmp_path).read_bytes() == CONTENT
    assert quick[1] == 7
    site.always = "429 100000"
    with pytest.raises(UserError, match="HTTP 429"):
        Download("other.zip", (f"{site.address}/data.zip",), "0" * 64).fetch(tmp_path)
    assert max(quick) <= http.LONGEST_PAUSE


def test_a_silent_server_is_left_and_gone_on_with(site: Site, tmp_path: Path) -> None:
    site.mischief.append("silent 100000")
    assert wanted(site.put("/data.zip", CONTENT)).fetch(tmp_path).read_bytes() == CONTENT
    assert site.requests[1][1] is not None


def test_no_network_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.zip: cannot be fetched .*connection refused"):
        wanted("http://127.0.0.1:9/data.zip").fetch(tmp_path)  # the discard port: nobody listens
    assert only(tmp_path)


def test_an_address_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be fetched"):
        wanted("nonsense://here").fetch(tmp_path)


def test_a_damaged_file_is_fetched_again(site: Site, tmp_path: Path) -> None:
    download = wanted(site.put("/data.zip", CONTENT))
    download.fetch(tmp_path).write_bytes(CONTENT[:-1])
    assert download.fetch(tmp_path).read_bytes() == CONTENT


def test_a_full_disk_is_one_line_before_and_while_writing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = wanted(site.put("/data.zip", CONTENT))
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        patch.setattr(http.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(UserError, match=r"disk is full; make room .*\(0\.00 GB to fetch, 0\.00 GB free\)"):
            download.fetch(tmp_path)
    with monkeypatch.context() as patch:
        really = http._write

        def full(response, wanted, start, total, file) -> None:
            class Full:
                def iter_content(self, size: int) -> Iterator[bytes]:
                    yield next(response.iter_content(100_000))
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            really(Full(), wanted, start, total, file)

        patch.setattr(http, "_write", full)
        with pytest.raises(UserError, match="disk is full; make room"):
            download.fetch(tmp_path)
    assert (tmp_path / "sub/data.zip.part").stat().st_size == 100_000
    assert download.fetch(tmp_path).read_bytes() == CONTENT  # goes on with what had arrived
    assert site.requests[-1][1] == "bytes=100000-"


PROGRAM = """
import sys
from pathlib import Path
from dualteacher.system import console
from dualteacher.data.fetch import http
http.CHUNK = 1000
console.start()
http.Download("data.zip", (sys.argv[1],), sys.argv[2]).fetch(Path(sys.argv[3]))
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_goes_on(site: Site, tmp_path: Path, end: signal.Signals) -> None:
    address, digest = site.put("/data.zip", CONTENT), hashlib.sha256(CONTENT).hexdigest()
    site.mischief.append("silent 200000")
    command = [sys.executable, "-c", PROGRAM, address, digest, str(tmp_path)]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    part = tmp_path / "data.zip.part"
    for _ in range(1000):
        if part.exists() and part.stat().st_size > 150_000:
            break
        moment()
    with pytest.raises(UserError, match="another process is fetching it"):
        Download("data.zip", (address,), digest).fetch(tmp_path)
    first.send_signal(end)
    first.wait()
    assert not (tmp_path / "data.zip").exists()
    arrived = part.stat().st_size
    assert arrived > 150_000
    Download("data.zip", (address,), digest).fetch(tmp_path)
    assert (tmp_path / "data.zip").read_bytes() == CONTENT
    assert site.requests[-1][1] == f"bytes={arrived}-"
    assert only(tmp_path, "data.zip")


def moment() -> None:
    """A real pause: time.sleep is not one in these tests."""
    threading.Event().wait(0.01)
