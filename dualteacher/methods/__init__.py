"""Semi-supervised methods, one file for each kind.

`methods/<kind>.py` holds a class `METHOD`. `build` imports it by the kind, so the engines know which file a cell
depends on.
"""

from __future__ import annotations

import importlib

from dualteacher.methods.base import Method, Pixels
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Settings


def build(name: str, settings: Settings, student: Segmenter, pixels: Pixels | None = None) -> Method:
    """The entry `name` of `methods` in params.yaml, its teachers copied from the student.

    pixels: see Method.
    """
    options = settings.methods[name]
    module = importlib.import_module(f"dualteacher.methods.{options.kind}")
    method: Method = module.METHOD(options, settings, student, pixels)
    return method
