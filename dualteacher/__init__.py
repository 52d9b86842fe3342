"""Dual Teacher: semi-supervised semantic segmentation as a reproducible pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualteacher.api.model import Model as Model
    from dualteacher.api.model import Prediction as Prediction
    from dualteacher.api.model import load as load
    from dualteacher.system.errors import UserError as UserError

__version__ = "0.1.0"

# Imported on first use, so that the package itself, and with it the command line, starts at once.
_LAZY = {"Model": "api.model", "Prediction": "api.model", "load": "api.model", "UserError": "system.errors"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
