"""`python -m dualteacher`."""

import os
import sys

# In a Latin-1 or ASCII locale, Python would read file names and arguments as that. UTF-8 mode is chosen at its start.
if sys.getfilesystemencoding() != "utf-8":
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

import dualteacher

dualteacher.spin_briefly()
from dualteacher.cli import main  # noqa: E402  # may import torch

if __name__ == "__main__":
    main()
