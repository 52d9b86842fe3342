"""`make` installs with uv as pip is set up, or with pip where uv fails."""

from __future__ import annotations

import os
import subprocess
import sys

import numba
import pytest
import torch
from conftest import ROOT

from dualteacher.core import upsampling
from dualteacher.core.losses import supervised_loss
from dualteacher.core.upsampling import cpu, numba_kernels
from dualteacher.evaluation.confusion import ConfusionMatrix
from dualteacher.workflow import install, precompile

LISTED = """\
:env:.find-links='~/wheels /other'
global.cert='/etc/ca.pem'
global.extra-index-url='https://one.example/simple\\nhttps://two.example/simple'
global.find-links='/not/this'
global.index-url='https://global.example/simple'
global.trusted-host='one.example'
install.index-url='https://install.example/simple'
install.only-binary=':all:'
install.no-index='true'
list.index-url='https://list.example/simple'
user.unknown=''
"""


@pytest.fixture
def translated(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    return install.uv_settings(install.pip_settings(LISTED), {"UV_INSECURE_HOST": "mine.example"})


def test_pips_settings_reach_uv(translated):
    options, variables = translated
    assert options == ["--only-binary=:all:", "--no-index"]
    assert variables["UV_DEFAULT_INDEX"] == "https://install.example/simple"
    assert variables["UV_INDEX"] == "https://one.example/simple https://two.example/simple"
    assert variables["UV_FIND_LINKS"] == "/home/me/wheels,/other"
    assert variables["SSL_CERT_FILE"] == "/etc/ca.pem"


def test_what_the_user_has_set_for_uv_stays(translated):
    assert "UV_INSECURE_HOST" not in translated[1]


@pytest.mark.parametrize(
    ("pip", "environment", "expected"),
    [
        ({}, {}, {}),
        ({"no-cache-dir": "false"}, {}, {"UV_NO_CACHE": "1"}),  # pip: also off
        ({"no-index": "false"}, {}, {}),
        ({}, {"REQUESTS_CA_BUNDLE": "/ca.pem"}, {"SSL_CERT_FILE": "/ca.pem"}),
        ({"proxy": "p:1"}, {"HTTPS_PROXY": "q:1"}, {"HTTP_PROXY": "p:1"}),
    ],
)
def test_a_setting(pip, environment, expected):
    strategy = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    assert install.uv_settings(pip, environment) == ([], strategy | expected)


def test_pips_real_listing_is_understood():
    environment = {**os.environ, "PIP_FIND_LINKS": "it's /here", "PIP_CONFIG_FILE": os.devnull}
    listed = subprocess.run(
        [*install.PIP, "config", "list"], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert install.pip_settings(listed)["find-links"] == "it's /here"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a lock, a pip and a uv that write down how they were called, and that fail on demand."""
    monkeypatch.chdir(tmp_path)
    entries = [f"{name}==1.0 \\\n    --hash=sha256:{'0' * 64}\n" for name in ("pillow", "uv")]
    (tmp_path / "requirements.lock").write_text("".join(entries))
    for name in ("uv", "pip", "precompile"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f"""#!/bin/sh
echo "{name} $* constraint=$UV_CONSTRAINT" >> calls
[ {name} != precompile ] || echo "dont_write=$PYTHONDONTWRITEBYTECODE" >> calls
case "$*" in
  *"cache dir") echo "$PWD";;
  *"config list") echo "global.constraint='$PWD/c.txt'";;
  *"--format=freeze") printf 'Pillow==11.0.0\\nold_one==1.0\\npip==23\\n';;
  *"$FAIL"*) [ -z "$FAIL" ] || {{ printf 'line\\n  × No way: why\\n  ╰─▶ so\\n' >&2; exit 1; }};;
esac
"""
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("UV_CONSTRAINT", raising=False)
    monkeypatch.setattr(install, "PIP", (str(tmp_path / "bin" / "pip"),))
    monkeypatch.setattr(install, "PRECOMPILE", (str(tmp_path / "bin" / "precompile"),))
    monkeypatch.setattr(install, "LOG", tmp_path / "install.log")
    return tmp_path


def called(folder) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def test_uv_installs_the_lock_with_its_hashes(folder, capsys):
    assert install.main() == 0
    uv = [line for line in called(folder) if line.startswith("uv pip install")]
    assert len(uv) == 2
    assert "--dry-run" in uv[0] and uv[0].endswith(f"constraint={folder}/c.txt")  # uv refuses both at once
    assert "--require-hashes" in uv[1] and sys.executable in uv[1] and uv[1].endswith("constraint=")
    assert not any("pip install --progress-bar" in line for line in called(folder))
    assert "note:" not in capsys.readouterr().out


def test_packages_not_in_the_lock_are_removed(folder):
    assert install.main() == 0
    assert "pip uninstall --quiet --yes old-one constraint=" in called(folder)


@pytest.mark.parametrize("failing", ["--dry-run", "pip install --python"])
def test_pip_installs_where_uv_fails(folder, failing, monkeypatch, capsys):
    monkeypatch.setenv("FAIL", failing)
    assert install.main() == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert notes == ["note: uv cannot install them (No way: why); pip does, which takes longer"]
    assert any(line.startswith("pip install --progress-bar off --require-hashes") for line in called(folder))


def test_bytecode_is_compiled_ahead_also_where_imports_do_not_write_it(folder, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert install.main() == 0
    compiled = [line for line in called(folder) if line.startswith(("precompile", "dont_write="))]
    whats = ["precompile bytecode constraint=", "precompile kernels constraint="]
    assert sorted(compiled) == ["dont_write=", "dont_write=", *whats]
    monkeypatch.setenv("FAIL", "bytecode")
    assert install.main() == 0  # it only saves time
    assert "note: could not compile ahead (see " in capsys.readouterr().out


def test_the_kernels_of_the_jobs_are_compiled_ahead(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    seen = set()

    def note(module, name):
        kernel = getattr(module, name)

        def noted(*arguments):
            seen.add((name, *map(numba.typeof, arguments)))
            return kernel(*arguments)

        monkeypatch.setattr(module, name, noted)

    for name in ("entropies", "labels", "largest"):
        note(cpu, name)
    note(numba_kernels, "count_pairs")
    precompile.kernels()
    compiled = set(seen)
    seen.clear()
    logits = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    label, mask = torch.zeros(2, 32, 32, dtype=torch.int64), torch.zeros(2, 32, 32, dtype=torch.uint8)
    supervised_loss(logits, label).backward()
    upsampling.label_and_confidence(logits, (32, 32))
    ConfusionMatrix(3).update(mask, upsampling.argmax(logits, (32, 32)))
    assert len(seen) == 4 and seen <= compiled


def test_an_installation_that_fails_is_one_line(folder, monkeypatch, capsys):
    monkeypatch.setenv("FAIL", "--require-hashes")
    assert install.main() == 2
    err = capsys.readouterr().err
    assert err.startswith("error: could not install the packages; see ") and err.count("\n") == 1
    assert "No way" in (folder / "install.log").read_text()


def test_without_a_uv_the_locked_one_is_fetched(folder, monkeypatch, capsys):
    (folder / "bin" / "uv").unlink()
    monkeypatch.setattr(install.shutil, "which", lambda name, path=None: None)
    assert install.main() == 0  # this pip brings none
    assert any(line.startswith("pip install --quiet --require-hashes --requirement ") for line in called(folder))
    assert "note: uv cannot install them (pip could not fetch uv)" in capsys.readouterr().out


def test_every_locked_uv_has_hashes():
    assert install.locked_uv((ROOT / "requirements.lock").read_text()).count("--hash=sha256:") > 5
