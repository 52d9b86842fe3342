"""Dual Teacher: semi-supervised semantic segmentation as a reproducible pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualteacher.api.model import Model as Model
    from dualteacher.api.model import Prediction as Prediction
    from dualteacher.api.model import load as load
    from dualteacher.api.training import train as train
    from dualteacher.system.errors import Interrupted as Interrupted
    from dualteacher.system.errors import UserError as UserError

__version__ = "0.1.0"

# Imported on first use, so that the package itself, and with it the command line, starts at once.
_LAZY = {
    **dict.fromkeys(("Model", "Prediction", "load"), "api.model"),
    "train": "api.training",
    **dict.fromkeys(("UserError", "Interrupted"), "system.errors"),
}


def spin_briefly() -> None:
    """Let idle threads of torch sleep soon; call before torch is imported.

    GNU's OpenMP lets them spin for milliseconds in case more work comes, while our own sweeps or another program wait
    for the core. A tenth of a millisecond is enough for a network's operations, which follow each other at once.
    """
    import os

    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    spin_briefly()
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
