"""What the operating system refuses is one line that names the file and what to do; any locale can print it."""

from __future__ import annotations

import ast
import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dualteacher import cli
from dualteacher.system import files
from dualteacher.system.errors import UserError
from tests.core.conftest import ROOT


def said(error: OSError, capsys: pytest.CaptureFixture) -> str:
    """The one line on stderr of a program that ends with this error."""

    def program() -> None:
        raise error

    with pytest.raises(SystemExit, match="2"):
        cli.guarded(program)
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text.removeprefix("error: ").rstrip()


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_number_is_one_line_that_names_the_file(number: int, capsys: pytest.CaptureFixture) -> None:
    assert "results/x" in said(OSError(number, os.strerror(number), "results/x"), capsys)


def test_errors_without_a_number_or_with_two_files(capsys: pytest.CaptureFixture) -> None:
    assert said(OSError("cannot write\nmode F"), capsys) == "cannot write mode F: no file named"
    assert said(OSError(), capsys) == "OSError: no file named"
    assert said(OSError(errno.EXDEV, "Invalid link", "a", None, b"b"), capsys) == "Invalid link: a → b"


def failing(call: Callable[[], object]) -> OSError:
    try:
        call()
    except OSError as error:
        return error
    pytest.fail("no error")


def test_links_that_lead_nowhere_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "results").symlink_to("/mnt/unplugged")
    expected = f"{tmp_path}/results: a link to /mnt/unplugged, which is not there; is that disk mounted?"
    assert said(failing(lambda: (tmp_path / "results").mkdir()), capsys) == expected
    assert said(failing(lambda: (tmp_path / "results/runs/x").write_text("")), capsys) == expected
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert said(failing(lambda: (tmp_path / "a/x").mkdir()), capsys) == f"{tmp_path}/a: a link to itself; remove it"


def test_an_output_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file/inner"):
        with pytest.raises(UserError, match=r"file: a file, but an output folder is needed"):
            files.check_folder(path)
    (tmp_path / "link").symlink_to("/mnt/unplugged")
    with pytest.raises(UserError, match=r"link: a link to /mnt/unplugged, which is not there"):
        files.check_folder(tmp_path / "link/inner")
    files.check_folder(tmp_path / "new/inner")
    assert (tmp_path / "file").read_text() == "mine"


def run(folder: Path, *arguments: str, code: int) -> subprocess.CompletedProcess[bytes]:
    """The program in a process of its own, in the ASCII locale."""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "dualteacher", *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | locale, capture_output=True)
    assert done.returncode == code, done
    return done


@pytest.mark.slow
def test_a_locale_without_unicode_can_name_any_file(tmp_path: Path) -> None:
    done = run(tmp_path, "init", "größe", code=2)
    assert done.stderr.decode() == "error: größe: no such folder\n"
    done = run(tmp_path, "init", os.fsdecode(b"gr\xf6\xdfe"), code=2)  # a name that is not UTF-8
    assert done.stderr == b"error: gr\\udcf6\\udcdfe: no such folder\n"


def test_streams_write_what_their_encoding_lacks(capfd: pytest.CaptureFixture) -> None:
    """As UTF-8, and escaped where it is not Unicode: a report's "Δ" must not end a run."""
    program = (
        "import sys; from dualteacher.system import console; console.use_utf8();"
        "print('Δ \\udcff'); print('Δ \\udcff', file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONIOENCODING": "latin-1:strict", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout == done.stderr == "Δ \\udcff\n".encode()


LONG = ["n" * 247 + ".png", "山" * 84 + "x.p", "a." + "s" * 253]  # of 251, 255 and 255 bytes


@pytest.mark.parametrize("name", LONG)
def test_names_as_long_as_a_file_system_allows_can_be_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with files.atomic(path) as temporary:
        assert len(os.fsencode(temporary.name)) <= 128
        assert temporary.suffix == (path.suffix if len(path.suffix) < 9 else ".tmp")  # Pillow goes by it
        temporary.write_text("first")
        with files.atomic(path) as second:  # another process at the same file
            second.write_text("second")
        assert temporary.exists() and path.read_text() == "second"
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", [*LONG, "[a-z]*.png"])
def test_what_a_killed_process_left_of_such_a_name_is_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / "other.png").write_text("mine")
    with files.atomic(tmp_path / name) as temporary:
        left = temporary.with_name(re.sub(r"\.[0-9a-f]{8}\.tmp", ".01234567.tmp", temporary.name))
        temporary.write_text("whole")
    left.write_text("half")
    files.write_text(tmp_path / name, "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "other.png"])


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EACCES, "Permission denied"), (errno.ENOTCONN, "does not answer")]
)
def test_a_link_whose_target_is_there_but_cannot_be_reached_is_no_broken_link(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    (tmp_path / "results").symlink_to("/mnt/share")
    refused = OSError(number, os.strerror(number), str(tmp_path / "results/x"))
    stat = Path.stat

    def refuse(path: Path, **options: bool) -> os.stat_result:
        if path == tmp_path / "results" and options.get("follow_symlinks", True):
            raise refused
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    assert words in (text := said(refused, capsys)) and "mounted" not in text


def without_encoding(tree: ast.AST) -> Iterator[int]:
    """Lines with a text file that is opened in the locale's encoding."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        called = ast.unparse(node.func)
        modes = [argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant)]
        modes += [
            ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg == "mode" and called == "open"
        ]
        text = called == "open" and not any("b" in str(mode) for mode in modes)
        if text or (called.endswith((".read_text", ".write_text")) and called != "files.write_text"):
            yield node.lineno


def test_every_text_file_is_opened_as_utf_8() -> None:
    assert (
        list(without_encoding(ast.parse("open(x); open(x, 'w'); open(x, 'rb'); p.read_text(); p.write_text(t)")))
        == [1] * 4
    )
    assert not list(without_encoding(ast.parse("open(x, encoding='utf-8'); p.read_text('x', encoding='utf-8')")))
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "dualteacher").rglob("*.py"))
        for line in without_encoding(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found
