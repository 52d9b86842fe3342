"""Methods: a method is its teachers, its mixes and its loss; nothing else differs between them.

Each is one file of its own name with a class `METHOD`; `build` finds it by that name, so that an engine
can tell which file a cell depends on.
"""

from __future__ import annotations

import importlib

from dualteacher.methods.base import Method
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Settings


def build(name: str, settings: Settings, student: Segmenter) -> Method:
    """The method `name` with its teachers made from the student; settings.Methods has checked the name."""
    module = importlib.import_module(f"dualteacher.methods.{name}")
    method: Method = module.METHOD(getattr(settings.methods, name), settings, student)
    return method
