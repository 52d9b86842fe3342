"""Semi-supervised methods, one file per kind.

`methods/<kind>.py` defines `METHOD`, a subclass of Method, which `build` imports by kind. So the engines know which
file a cell depends on.
"""

from __future__ import annotations

import importlib

from dualteacher.methods.base import Method, Pixels
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Settings


def build(name: str, settings: Settings, student: Segmenter, pixels: Pixels | None = None) -> Method:
    """Build the entry `name` of `methods` in params.yaml; teachers start as copies of the student.

    pixels: see Method.
    """
    options = settings.methods[name]
    module = importlib.import_module(f"dualteacher.methods.{options.kind}")
    method: Method = module.METHOD(options, settings, student, pixels)
    return method
