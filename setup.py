"""Adds the pipeline's files (Snakefile, workflow/, presets/, …) to the wheel, for `dualteacher new`."""

import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SKELETON = runpy.run_path("dualteacher/workflow/skeleton.py")


class WithSkeleton(build_py):
    def get_source_files(self) -> list[str]:
        """Also the skeleton's, for a source distribution."""
        return [*super().get_source_files(), *SKELETON["files"](Path())]

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # a clone has them
            return
        for name in SKELETON["files"](Path()):
            target = Path(self.build_lib, "dualteacher", SKELETON["PACKAGED"], name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, target)


setup(cmdclass={"build_py": WithSkeleton})
