"""For all tests."""

import os
import signal
from contextlib import suppress

import setuptools  # noqa: F401  # before anything imports the standard library's distutils: torch.compile wants this one
from hypothesis import settings

# `make test ARGS=…` hands its ARGS on to every make below it, and tests call make.
for name in ("ARGS", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES"):
    os.environ.pop(name, None)

# The same examples every time: a suite that fails once in a hundred runs teaches people to run it twice.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# A background job of a script is born with Ctrl-C ignored, and so would be the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)
