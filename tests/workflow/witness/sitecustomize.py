"""On PYTHONPATH of a test run: each command notes the project's modules it loaded and the files it opened.

What Arrow opens itself goes unseen.
"""

import atexit
import json
import os
import sys
from pathlib import Path

if "dualteacher" in sys.orig_argv:
    opened: set[str] = set()
    project = Path.cwd()

    def note(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[1] in (None, "r", "rb"):
            opened.add(os.path.relpath(arguments[0], project))

    def tell() -> None:
        modules = [m.__file__ for name, m in sys.modules.items() if name.startswith("dualteacher") and m.__file__]
        told = {
            "command": " ".join(["python", *sys.orig_argv[1:]]),
            "modules": sorted(os.path.relpath(path, project) for path in modules),
            # a folder is opened to sync a rename in it
            "opened": sorted(
                p for p in opened if p.startswith(("data/", "results/")) and not Path(project, p).is_dir()
            ),
        }
        Path(os.environ["WITNESS"], f"{os.getpid()}.json").write_text(json.dumps(told))

    sys.addaudithook(note)
    atexit.register(tell)
