"""What the workflow engines ask of the project before the first job; see workflow/rules/common.smk."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import yaml

from dualteacher import settings
from dualteacher.errors import UserError


def check(config: dict[str, Any]) -> None:
    """Ends Snakemake with one line and exit code 2 where params.yaml is wrong or is not what it was given.

    The commands read params.yaml themselves, so what ``--config`` and ``--configfile`` change would be
    recorded, but not used.
    """
    try:
        settings.load()
        if config != yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")):
            raise UserError(
                "--config and --configfile are not for this workflow, whose commands read params.yaml:"
                " edit that, or replace it with `make use PRESET=name`"
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def set_environment() -> None:
    """Jobs run this interpreter's `python`, whatever is active, and say their progress in lines."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ["DUALTEACHER_PROGRESS"] = "lines"  # jobs side by side cannot share a bar


def gpus(device: str) -> int:
    """GPUs that a training job takes: lets the profile's limit keep such jobs from sharing one.

    Looks at device files, since importing torch would cost every `snakemake` call two seconds.
    """
    if device != "auto":
        return int(device != "cpu")
    return int(sys.platform == "darwin" or any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/kfd")))
