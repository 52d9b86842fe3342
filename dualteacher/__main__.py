"""`python -m dualteacher`."""

import os
import sys

# GNU's OpenMP, which torch uses, lets its idle threads turn round for milliseconds in case that more work comes. What
# other threads have to do then, our own sweeps or another program, waits for them. A tenth of a millisecond is enough
# for the operations of a network, which follow each other at once. It is read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# In a Latin-1 or ASCII locale, Python would read file names and arguments as that. UTF-8 mode is chosen at its start.
if sys.getfilesystemencoding() != "utf-8":
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

from dualteacher.cli import main

if __name__ == "__main__":
    main()
