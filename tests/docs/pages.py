"""The fenced blocks of README and docs, and what is done with each command in them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = {"", "text", "yaml"}  # nothing to run: output, settings (parsed). Mermaid would need a script from the network


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, language and text."""

    page: str
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command of a shell block, with its continuation lines and here-documents."""

    page: str
    text: str

    @property
    def bare(self) -> str:
        """The first line without its comment, continuation lines joined."""
        joined = self.text.replace("\\\n", " ").split("\n")[0]
        return re.sub(r"\s+", " ", re.sub(r"(^|\s)# .*$", "", joined)).strip()


def pages() -> list[Path]:
    """Every page that git knows or would take, tests' own notes left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    return [
        ROOT / name for name in sorted(listed) if name and not name.startswith("tests/") and (ROOT / name).is_file()
    ]


def blocks() -> list[Block]:
    """All fenced blocks, in the order of pages and lines."""
    return [
        Block(str(page.relative_to(ROOT)), language, text)
        for page in pages()
        for language, text in BLOCK.findall(page.read_text(encoding="utf-8"))
    ]


def commands() -> list[Command]:
    """All commands of the shell blocks."""
    return [Command(block.page, text) for block in blocks() if block.language == "sh" for text in split(block.text)]


def split(text: str) -> Iterator[str]:
    """The commands of a block: its lines with their continuations and here-documents, without comments."""
    lines = iter(text.splitlines())
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        command = [line]
        while command[-1].endswith("\\"):
            command.append(next(lines))
        if mark := re.search(r"<<-?'?(\w+)'?", line):
            for inner in lines:
                command.append(inner)
                if inner.strip() == mark[1]:
                    break
        yield "\n".join(command)


# What becomes of a command. The first pattern that matches "page: command" decides.
RUN = "run"  # for real, in a finished small project, in the order of the page
STUB = "stub"  # the engines, in a copy whose stages take no time, in the order of the page
NOT = "not run: "  # and why not; its words are still parsed

HARDWARE = NOT + "needs several GPUs or a cluster; tests/distributed and tests/slurm run the same programs"
INSTALL = NOT + "installs packages from the network"
PUBLISHED = NOT + "fetches published data sets; tests/data has archives of the same layout"
LONG = NOT + "takes minutes or hours"
PLACES = NOT + "needs Docker or a cloud; tests/docs/test_places.py checks the files"

DECISIONS = [
    # pages with tests of their own
    (r"docs/own-data\.md: ", "tests/data/test_own_data_tutorial.py"),
    (r"docs/labelling\.md: ", "tests/suggest"),
    (r"docs/compare-experiments\.md: ", "tests/workflow/test_adopt.py"),
    (r"docs/scaling\.md: (dvc|git|make exp-show)", "tests/scaling/test_dvc.py"),
    (r"docs/add-a-dataset\.md: ", "tests/docs/test_add_a_dataset.py"),
    (r"docs/export\.md: ", "tests/export/test_files.py"),
    (r"README\.md: python -m dualteacher (init|check-data)", "tests/data/test_own_data_tutorial.py"),
    # what cannot be run here
    (r"docs/(study/|control\.md)", LONG),
    (r"benchmarks/README\.md: ", LONG),
    (r"docs/performance\.md: ", LONG),
    (r"README\.md: make (test|check)$", LONG),
    (r"README\.md: make docs$", "tests/docs/test_site.py"),
    (r"docs/report\.md: python -c .*coverage", LONG),
    (r"docs/benchmarks\.md: (make run|csDownload|python -m dualteacher)", PUBLISHED),
    (r"docs/reliability\.md: .*audit", INSTALL),
    (r"\S+: (\.venv/bin/|python -m )?pip install", INSTALL),
    (r"docs/install\.md: make setup", INSTALL),
    (r"docs/install\.md: (python -m pip|dualteacher)", "tests/api/test_installed.py"),
    (r"docs/places\.md: (docker|kubectl|aws|gcloud)", PLACES),
    (r"\S+: (torchrun|snakemake --workflow-profile)", HARDWARE),
    # what a page that is run has too: an experiment takes seconds even where its stages take none
    (r"(README|docs/tutorial)\.md: (dvc exp run|git|make (exp-show|adopt-dvc))", "docs/compare-experiments.md"),
    (r"README\.md: (make (run|plan)|sed)", "docs/tutorial.md"),
    (r"README\.md: snakemake --cores all", "docs/own-data.md"),
    (r"README\.md: dvc repro", "docs/scaling.md"),
    (r"docs/scaling\.md: snakemake$", "docs/own-data.md"),
    # everything else
    (r"docs/benchmarks\.md: make (use|estimate|plan)", RUN),
    (r"\S+: make (run|plan|adopt-dvc|exp-show)", STUB),
    (r"\S+: (snakemake|dvc|git|sed)\b", STUB),
    (r"\S+: (make|python|cat|\.)( |$)", RUN),
]


def decision(command: Command) -> str | None:
    """What is done with a command; None where nobody has decided."""
    name = f"{command.page}: {command.bare}"
    return next((how for pattern, how in DECISIONS if re.match(pattern, name)), None)
