"""Install requirements.lock into this environment: with uv, or with pip where uv fails. Run by `make`.

Uses the standard library only, since nothing is installed yet. uv is the user's own or, if there is none on PATH, the
locked one, fetched by pip. It does not read pip's settings (index, mirror, certificates), so they are translated.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOCK = Path("requirements.lock")
LOG = Path(sys.prefix, "install.log")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
PRECOMPILE = (sys.executable, "-m", "dualteacher.workflow.precompile")
HASHED = ("--require-hashes", "--requirement", str(LOCK))
UNLOCKED = {"pip", "setuptools", "wheel", "dualteacher"}  # packages that may be installed and not in the lock

# pip's setting: uv's environment variables, and what separates the values of a list there (pip takes white space)
VARIABLES = {
    "index-url": (("UV_DEFAULT_INDEX",), None),
    "extra-index-url": (("UV_INDEX",), " "),
    "find-links": (("UV_FIND_LINKS",), ","),
    "constraint": (("UV_CONSTRAINT",), " "),
    "trusted-host": (("UV_INSECURE_HOST",), " "),
    "cert": (("SSL_CERT_FILE",), None),
    "client-cert": (("SSL_CLIENT_CERT",), None),
    "proxy": (("HTTP_PROXY", "HTTPS_PROXY"), None),
    "timeout": (("UV_HTTP_TIMEOUT",), None),
    "default-timeout": (("UV_HTTP_TIMEOUT",), None),
    "retries": (("UV_HTTP_RETRIES",), None),
    "no-cache-dir": (("UV_NO_CACHE",), None),
}
SHOWN = re.compile(r" *(Resolved|Prepared|Installed|Download\w+ .*(\d{3}[\d.]*M|G)iB)")  # of uv's output
FILES = ("find-links", "constraint", "cert", "client-cert")  # pip expands ~ in these
OPTIONS = ("no-binary", "only-binary")  # options of uv that have no variable; lists


def pip_settings(listed: str) -> dict[str, str]:
    """pip's settings for `pip install`, from what `pip config list` prints: PIP_* over [install] over [global]."""
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.partition(".")
        if section in sections and value:
            sections[section][key.replace("_", "-").lower()] = str(ast.literal_eval(value))
    return sections["global"] | sections["install"] | sections[":env:"]


def uv_settings(pip: Mapping[str, str], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """(options, variables) for uv that mean what `pip` means for pip. A variable that the user has set stays."""
    variables = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # as pip: all indexes count; the hashes make it safe
    for key, (names, separator) in VARIABLES.items():
        values = pip.get(key, "").split()
        if key in FILES:
            values = [str(Path(v).expanduser()) if v.startswith("~") else v for v in values]
        text = separator.join(values) if separator else " ".join(values)
        variables |= dict.fromkeys(names, text) if text else {}
    if "no-cache-dir" in pip:
        variables["UV_NO_CACHE"] = "1"  # pip takes any value, even "false", for yes
    if "cert" not in pip and "REQUESTS_CA_BUNDLE" in environment:  # pip reads it, uv does not
        variables["SSL_CERT_FILE"] = environment["REQUESTS_CA_BUNDLE"]
    options = [f"--{key}={name}" for key in OPTIONS for name in re.split(r"[\s,]+", pip.get(key, "")) if name]
    if pip.get("no-index", "0").lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    return options, {name: value for name, value in variables.items() if not environment.get(name)}


def main() -> int:
    began = time.monotonic()
    locked = re.findall(r"^([a-z0-9.-]+)==", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    print(f"Installing {len(locked)} locked packages (about 3 GB to download the first time)", flush=True)
    with open(LOG, "w", encoding="utf-8") as log:
        problem = _with_uv(log)
        if problem:
            print(f"note: uv cannot install them ({problem}); pip does, which takes longer", flush=True)
            if not _with_pip(len(locked), log):
                then = f"see {LOG}, then run the same command again"
                print(f"error: could not install the packages; {then}", file=sys.stderr)
                return 2
    _pip("install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")
    installed = re.findall(r"^([^=\s]+)==", _pip("list", "--format=freeze"), re.MULTILINE)
    others = {re.sub(r"[-_.]+", "-", name).lower() for name in installed} - UNLOCKED - set(locked)
    if others:
        print("Removing packages not in the lock file:", *sorted(others))
        _pip("uninstall", "--quiet", "--yes", *sorted(others))
    print("Compiling what the jobs load", flush=True)
    with open(LOG, "a", encoding="utf-8") as log:
        _precompile(log)
    print(f"Ready after {time.monotonic() - began:.0f} s")
    return 0


def _with_uv(log: IO[str]) -> str:
    """Install with uv; the reason if it failed, else an empty string."""
    uv = shutil.which("uv") or _fetch_uv()
    if uv is None:
        return "pip could not fetch uv"
    options, variables = uv_settings(pip_settings(_pip("config", "list")), os.environ)
    command = [uv, "pip", "install", "--python", sys.executable, "--no-deps", *options]  # the lock is complete
    environment = {**os.environ, **variables}
    with _cache(uv, environment):
        if "UV_CONSTRAINT" in environment:  # uv takes none together with hashes, so they are checked first
            problem = _run_uv([*command, "--dry-run", "--requirement", str(LOCK)], log, environment)
            if problem:
                return problem
            del environment["UV_CONSTRAINT"]
        return _run_uv([*command, *HASHED], log, environment, show=True)


def _run_uv(command: list[str], log: IO[str], environment: Mapping[str, str], show: bool = False) -> str:
    """Run uv; its error in one line if it failed, else an empty string."""
    errors = []
    process, lines = _started(command, log, environment)
    for line in lines:
        if show and SHOWN.match(line):
            print(f"  {line.strip()}", flush=True)
        errors += re.findall(r"^\s*(?:error:|×)\s*(.*\S)", line)
    return "" if process.wait() == 0 else (errors or [f"exit code {process.returncode}"])[0]


def _fetch_uv() -> str | None:
    """The locked uv, installed by pip; None if that fails."""
    with tempfile.TemporaryDirectory(dir=sys.prefix) as folder:
        requirement = Path(folder, "uv.txt")
        requirement.write_text(locked_uv(LOCK.read_text(encoding="utf-8")), encoding="utf-8")
        command = [*PIP, "install", "--quiet", "--require-hashes", "--requirement", str(requirement)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return None if done.returncode else shutil.which("uv", path=Path(sys.executable).parent)


def locked_uv(lock: str) -> str:
    """The lock's entry for uv, with its hashes."""
    entry = re.search(r"^uv==(?:.*\\\n)*.*\n", lock, re.MULTILINE)
    return entry[0] if entry else ""


@contextmanager
def _cache(uv: str, environment: dict[str, str]) -> Iterator[None]:
    """Let uv keep its cache only where the environment shares its files by hard links.

    On another file system (a home folder with a quota, say), each file would be stored twice.
    """
    shown = subprocess.run([uv, "cache", "dir"], env=environment, capture_output=True, text=True).stdout.strip()
    place = Path(shown).absolute()
    while not place.exists():
        place = place.parent
    if "UV_CACHE_DIR" in environment or place.stat().st_dev == Path(sys.prefix).stat().st_dev:
        yield
        return
    with tempfile.TemporaryDirectory(prefix=".uv-", dir=sys.prefix, ignore_cleanup_errors=True) as folder:
        environment["UV_CACHE_DIR"] = folder
        yield


def _with_pip(count: int, log: IO[str]) -> bool:
    """Install with pip, with a progress count; whether it succeeded."""
    process, lines = _started([*PIP, "install", "--progress-bar", "off", *HASHED], log, os.environ)
    seen = set()
    for line in lines:
        package = re.match(r"(?:Collecting|Requirement already satisfied:) ([\w.-]+)", line)
        if package and package[1] not in seen:
            seen.add(package[1])
            if sys.stdout.isatty():
                print(f"\r  {len(seen)} of {count}", end="", flush=True)
            elif len(seen) % 50 == 0:
                print(f"  {len(seen)} of {count}", flush=True)
        elif line.startswith("Installing collected"):
            print("\n" * sys.stdout.isatty() + "  downloaded; unpacking", flush=True)
        elif line.startswith("ERROR"):
            print(line.rstrip(), file=sys.stderr)
    return process.wait() == 0


def _precompile(log: IO[str]) -> None:
    """Compile ahead, in two processes. Where that fails, each job compiles for itself."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    running = [
        subprocess.Popen([*PRECOMPILE, what], env=environment, stdout=log, stderr=subprocess.STDOUT)
        for what in ("bytecode", "kernels")
    ]
    codes = [process.wait() for process in running]
    if any(codes):
        print(f"note: could not compile ahead (see {LOG}), so jobs start more slowly", flush=True)


def _started(
    command: list[str], log: IO[str], environment: Mapping[str, str]
) -> tuple[subprocess.Popen[str], Iterator[str]]:
    """A process and the lines it prints, which also go to the log."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    )

    def lines() -> Iterator[str]:
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            yield line

    return process, lines()


def _pip(*arguments: str) -> str:
    """Run pip and return what it prints; its errors go to the terminal and end the program."""
    return subprocess.run([*PIP, *arguments], check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {' '.join(error.cmd)} failed with exit code {error.returncode}")
