"""Peak memory of one program: `python -m dualteacher.benchmark.memory '{"program": …}'` prints bytes."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dualteacher.benchmark import programs, throughput
from dualteacher.benchmark.cases import Case
from dualteacher.benchmark.measure import peak, prepare
from dualteacher.data.pack import Pack

PROGRAMS: dict[str, Any] = {
    "ours": programs.Ours,
    "plain": programs.Plain,
    "plain_same_network": partial(programs.Plain, same_network=True),
    "bare": programs.Bare,
}


def run(program: str, case: dict[str, Any], device: str, threads: int, pack: str | None) -> int:
    """Peak memory of a program, bytes; only "evaluate" needs `pack`."""
    place, measured = torch.device(device), Case(**case)
    prepare(place, threads)
    if program == "evaluate":
        assert pack is not None
        score_pack, _ = throughput.evaluators(measured, Pack(Path(pack)), place)
        return peak(lambda: lambda step: score_pack(), place, 1)
    return peak(partial(PROGRAMS[program], measured, place), place)


if __name__ == "__main__":
    print(run(**json.loads(sys.argv[1])))
