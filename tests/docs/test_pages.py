"""README and docs: every command has been decided on and can be parsed, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from dualteacher.workflow.reference.cli import commands as program
from tests.docs import pages
from tests.docs.pages import ROOT, Command

INLINE = re.compile(r"`((?:python -m dualteacher|make) [^`…<]+)`")


def named(commands: list[Command]) -> list[str]:
    return [f"{command.page}: {command.bare}" for command in commands]


def test_somebody_has_decided_what_becomes_of_every_command() -> None:
    undecided = [command for command in pages.commands() if pages.decision(command) is None]
    assert named(undecided) == [], "add a pattern to DECISIONS in tests/docs/pages.py"


def test_no_decision_is_left_over() -> None:
    texts = named(pages.commands())
    rare = [pattern for pattern, _ in pages.DECISIONS if not any(re.match(pattern, text) for text in texts)]
    allowed = [pattern for pattern in rare if pattern.startswith(("docs/study", "benchmarks"))]
    assert rare == allowed


def test_the_tests_that_are_said_to_run_a_command_are_there() -> None:
    for _, how in pages.DECISIONS:
        assert how in (pages.RUN, pages.STUB) or how.startswith(pages.NOT) or (ROOT / how).exists(), how


def test_what_is_said_to_be_run_on_another_page_is_run_there() -> None:
    """The same program and sub-command, with other values."""
    for command in pages.commands():
        how = pages.decision(command) or ""
        if how.endswith(".md"):
            there = [part for other in pages.commands() if other.page == how for part in parts(other.bare)]
            for part in parts(command.bare):
                kind = part.split()[:3] if part.startswith("dvc exp") else part.split()[:2]
                assert any(text.split()[: len(kind)] == kind for text in there), f"{command.page}: {part}"


def test_the_other_blocks_are_what_they_say() -> None:
    for block in pages.blocks():
        if block.language == "python":
            text = textwrap.dedent(block.text)
            if text.startswith("case "):
                text = f"def choose(dataset):\n  match dataset:\n{textwrap.indent(text, '    ')}"
            compile(text, block.page, "exec")
        elif block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict), block
        else:
            assert block.language in pages.SHOWN | {"sh"}, f"{block.page}: a block of an unknown kind: {block.language}"


def test_bash_can_read_every_shell_block() -> None:
    for block in pages.blocks():
        if block.language == "sh":
            done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
            assert done.returncode == 0, f"{block.page}\n{block.text}\n{done.stderr}"


def test_every_command_can_be_parsed() -> None:
    texts = [(command.page, part) for command in pages.commands() for part in parts(command.bare)]
    for page in pages.pages():
        inline = INLINE.findall(page.read_text(encoding="utf-8"))
        texts += [(str(page.relative_to(ROOT)), part) for text in inline for part in parts(text)]
    assert len(texts) > 80
    for page, text in texts:
        try:
            check(shlex.split(text))
        except (Exception, SystemExit) as error:
            pytest.fail(f"{page}: `{text}`: {error!r} {error}")


def parts(command: str) -> list[str]:
    return re.split(r" && |; ", command) if "python -c" not in command else []


def check(words: list[str]) -> None:
    """Raise where a program of ours, or an engine, would not understand these words."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    match words:
        case ["python", "-m", "dualteacher", "--help" | "COMMAND"]:
            pass
        case ["python", "-m", "dualteacher", name, *rest]:
            program()[name].make_context(name, rest)
        case ["python", "-m", "dualteacher"]:
            raise ValueError("no command")
        case ["torchrun", *rest]:
            started = rest.index("-m")
            assert rest[started + 1] == "dualteacher"
            torchrun().parse_args(rest)
            program()[rest[started + 2]].make_context("", rest[started + 3 :])
        case ["make", *rest]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            targets = [word for word in rest if "=" not in word]
            assert all(re.search(rf"^{re.escape(name)}:.*## ", makefile, re.MULTILINE) for name in targets), targets
            for preset in (word.removeprefix("PRESET=") for word in rest if word.startswith("PRESET=")):
                assert preset in ("name", "NAME") or (ROOT / "presets" / f"{preset}.yaml").is_file(), preset
        case ["snakemake", *rest]:
            snakemake().parse_args(rest)
            assert all((ROOT / word / "config.yaml").is_file() for word in rest if word.startswith("profiles/"))
        case ["dvc", *rest]:
            dvc().parse_args(rest)


@cache
def torchrun() -> Any:
    from torch.distributed.run import get_args_parser

    return get_args_parser()


@cache
def snakemake() -> Any:
    from snakemake.cli import get_argument_parser

    return get_argument_parser()


@cache
def dvc() -> Any:
    from dvc.cli.parser import get_main_parser

    return get_main_parser()


@pytest.mark.parametrize("page", pages.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = pages.BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_of_docs_is_in_its_index() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    missing = [
        name
        for page in pages.pages()
        if (name := str(page.relative_to(ROOT))).startswith("docs/") and f"({name.removeprefix('docs/')})" not in index
    ]
    assert [name for name in missing if name != "docs/README.md"] == []
