"""`make gpu-check`: what can only be seen on a GPU, in at most four minutes, without network; one JSON file.

The tests marked `gpu` (the Triton kernels against torch; a run with CUDA graphs, killed and resumed); the two steps for
which docs/performance.md gives targets; losses and labels alone; eight small runs side by side and one alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from dualteacher.benchmark import report
from dualteacher.benchmark.cases import DEFAULT, GPU
from dualteacher.benchmark.measure import interleaved, prepare, summary, wait, warm_up
from dualteacher.benchmark.programs import Ours
from dualteacher.core import losses
from dualteacher.machine.device import pick
from dualteacher.system import console, files
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError

REPEATS = 12
SIDE_BY_SIDE, STEPS = 8, 60  # small runs at once, and steps of each
ROOT = Path(__file__).parents[2]


def main(path: Path) -> None:
    """Run everything, print it and write it to `path`. UserError without a CUDA device."""
    device = pick("auto")
    if device.type != "cuda":
        raise UserError("gpu-check: no CUDA device here")
    prepare(device, 1)
    found: dict[str, Any] = {"machine": report.machine(device), "tests": tests()}
    for case in GPU:
        logger.info("%s", case.name)
        steps = report.measure_steps(case, device, REPEATS)
        found[case.name] = {"steps": steps, "ratios": report.ratios(steps)}
    found["kernels"] = kernels(device)
    found["side by side"] = {str(number): side_by_side(number) for number in (1, SIDE_BY_SIDE)}
    print(json.dumps(found, indent=1))
    files.write_json(path, found)


def tests() -> dict[str, Any]:
    """The tests marked `gpu`: exit code and pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/core"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", check=False)
    print(done.stdout)
    return {"exit": done.returncode, "last line": (done.stdout.strip().splitlines() or [""])[-1]}


def kernels(device: torch.device) -> dict[str, Any]:
    """Losses with their gradient (12 × 150 × 512²), and labels (4 × 150 × 512²), from bf16 logits at a quarter."""
    logits = torch.randn(12, 150, 128, 128, device=device, dtype=torch.bfloat16)
    logits = logits.contiguous(memory_format=torch.channels_last).requires_grad_()
    label = torch.randint(0, 150, (12, 512, 512), device=device)

    def loss(step: int) -> None:
        losses.supervised_loss(logits, label).backward()

    def labels(step: int) -> None:
        losses.pseudo_label(logits[:4].detach(), (512, 512))

    seconds = interleaved({"losses": loss, "labels": labels}, REPEATS, device)
    return {name: summary(values) for name, values in seconds.items()}


def side_by_side(number: int) -> dict[str, float]:
    """Steps per second, all together, of `number` runs of the default case that share the device."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dualteacher.benchmark.gpu_check", folder]
        runs = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8") for _ in range(number)]
        while len(list(Path(folder).glob("*.ready"))) < number:
            if any(run.poll() for run in runs):
                raise UserError("gpu-check: a run of those side by side failed; its words are above")
            time.sleep(0.05)
        Path(folder, "go").touch()
        seconds = [float(run.communicate()[0].splitlines()[-1]) for run in runs]
    return {"steps_per_second": round(number * STEPS / max(seconds), 2)}


def one_of_them(folder: Path) -> float:
    """Seconds for STEPS steps, from the moment that the file `go` appears."""
    device = pick("auto")
    prepare(device, 1)
    program = Ours(DEFAULT, device)
    for step in range(warm_up(device)):
        program(step)
    wait(device)
    (folder / f"{os.getpid()}.ready").touch()
    while not (folder / "go").exists():
        time.sleep(0.001)
    began = time.perf_counter()
    for step in range(STEPS):
        program(step)
    wait(device)
    return time.perf_counter() - began


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(one_of_them(Path(sys.argv[1])))
    else:
        console.start()
        try:
            main(Path("gpu-check.json"))
        except UserError as error:
            sys.exit(f"error: {error}")
