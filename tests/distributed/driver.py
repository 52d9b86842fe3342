"""Runs a stage of the toy project in this process, which torchrun has started: driver.py SPEC.json."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from dualteacher import cli
from dualteacher.stages import evaluate, train
from dualteacher.system import console
from dualteacher.training import loop
from tests.core.conftest import group_norms, toy_settings


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    settings = toy_settings(**spec["sections"])
    console.start()
    if spec.get("without_norm"):
        from dualteacher.models.segmenter import Segmenter

        original = Segmenter.__init__

        def init(self, *arguments, **keywords):
            original(self, *arguments, **keywords)
            group_norms(self)

        Segmenter.__init__ = init
    if "die_at" in spec and int(os.environ.get("RANK", 0)) == spec["die_rank"]:
        step = loop.step

        def deadly(job, networks, optimizer, batch, clock):
            if clock.step == spec["die_at"]:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(job, networks, optimizer, batch, clock)

        loop.step = deadly
    stage = {"train": train, "evaluate": evaluate}[spec["stage"]]
    stage.run(settings, "toy", "some", spec.get("method", "dual_teacher"), 0)


if __name__ == "__main__":
    cli.guarded(main)
