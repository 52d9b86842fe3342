"""`make gpu-check`: what can only be seen on a GPU, in at most four minutes, without network; one JSON file.

The tests marked `gpu` (Triton kernels against torch, CUDA graphs against plain steps, a cell killed and resumed); the
two steps for which docs/performance.md gives targets; evaluation; losses and labels alone; eight small runs side by
side and one alone. A part that fails leaves an error in the file, and the others still run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dualteacher.benchmark import report, throughput
from dualteacher.benchmark.cases import DEFAULT, GPU, Case
from dualteacher.benchmark.measure import interleaved, prepare, summary, wait, warm_up
from dualteacher.benchmark.programs import Ours
from dualteacher.core import losses
from dualteacher.machine import mps
from dualteacher.machine.device import pick
from dualteacher.system import console, files
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError

REPEATS = 12
SIDE_BY_SIDE, STEPS = 8, 60  # small runs at once, and steps of each
IMAGES, EVALUATIONS = 48, 3  # images to evaluate, and how often
TEST_PROCESSES = 4  # the tests mostly compile kernels
ROOT = Path(__file__).parents[2]

MIT, R50 = (case.name for case in GPU)
AIMS: list[tuple[tuple[str, ...], str, float]] = [  # place in the file, bound; on an H100
    ((MIT, "steps", "ours", "median_seconds"), "at most", 0.030),
    ((R50, "steps", "ours", "median_seconds"), "at most", 0.055),
    ((MIT, "ratios", "plain_over_ours"), "at least", 3.0),
    ((R50, "ratios", "plain_over_ours"), "at least", 1.7),
    ((MIT, "ratios", "bare_over_ours"), "at least", 0.85),
    ((R50, "ratios", "bare_over_ours"), "at least", 0.85),
    ((MIT, "ratios", "memory_ours_over_plain"), "at most", 0.5),
    (("evaluation", "share_of_the_networks_speed"), "at least", 0.8),
    (("kernels", "losses", "median_seconds"), "at most", 0.002),
    (("kernels", "labels", "median_seconds"), "at most", 0.0005),
    (("side by side", "gain"), "at least", 2.0),
]


def main(path: Path) -> bool:
    """Run all parts, print the result and write it to `path`. False if a part or a test failed; targets do not count.

    UserError without a CUDA device.
    """
    device = pick("auto")
    if device.type != "cuda":
        raise UserError("gpu-check: no CUDA device here")
    prepare(device, 1)
    found = run(parts(device), {"machine": report.machine(device)}, path)
    print(json.dumps(found, indent=1))
    return not any("error" in part for part in found.values() if isinstance(part, dict)) and not found["tests"]["exit"]


def parts(device: torch.device) -> dict[str, Callable[[], dict[str, Any]]]:
    """Tests first: what they compile is cached for the measurements."""
    return {
        "tests": tests,
        **{case.name: partial(steps, case, device) for case in GPU},
        "evaluation": partial(evaluation, GPU[0], device),
        "kernels": partial(kernels, device),
        "side by side": side_by_side,
    }


def run(parts: Mapping[str, Callable[[], dict[str, Any]]], found: dict[str, Any], path: Path) -> dict[str, Any]:
    """Add each part's result, or its error, to `found`. Writes it to `path` after every part."""
    seconds: dict[str, float] = {}
    for name, part in parts.items():
        logger.info("%s", name)
        began = time.monotonic()
        try:
            found[name] = part()
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
            logger.error("%s: %s", name, found[name]["error"])
        seconds[name] = round(time.monotonic() - began, 1)
        found |= {"seconds": seconds, "targets": targets(found)}
        files.write_json(path, found)
    return found


def targets(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """For every aim: the measured value, the bound, and whether it is met; None if not measured."""
    rows = {}
    for place, bound, limit in AIMS:
        value: Any = found
        for key in place:
            value = value.get(key) if isinstance(value, Mapping) else None
        met = None if value is None else bool(value <= limit if bound == "at most" else value >= limit)
        rows[": ".join(place)] = {"measured": value, bound: limit, "met": met}
    return rows


def tests() -> dict[str, Any]:
    """The tests marked `gpu`: exit code and pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/core", "tests/inference"]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(TEST_PROCESSES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", check=False)
    print(done.stdout, done.stderr, flush=True)
    return {"exit": done.returncode, "last line": (done.stdout.strip().splitlines() or [""])[-1]}


def steps(case: Case, device: torch.device) -> dict[str, Any]:
    """A case's step by the four programs, and their ratios."""
    measured = report.measure_steps(case, device, REPEATS)
    return {"steps": measured, "ratios": report.ratios(measured)}


def evaluation(case: Case, device: torch.device) -> dict[str, Any]:
    """Scoring a pack from its files, against the network alone."""
    with tempfile.TemporaryDirectory() as folder:
        pack = throughput.open_pack(case, Path(folder), IMAGES)
        return throughput.evaluating(case, pack, device, EVALUATIONS)


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


def side_by_side() -> dict[str, float]:
    """Steps per second of one run, and of several together, as `runtime.cells_per_gpu` runs them; and their ratio."""
    alone, together = at_once(1), at_once(SIDE_BY_SIDE)
    return {"1": round(alone, 2), str(SIDE_BY_SIDE): round(together, 2), "gain": round(together / alone, 2)}


def at_once(number: int) -> float:
    """Steps per second, all together, of `number` runs of the default case that share the device."""
    with tempfile.TemporaryDirectory() as folder, mps.shared(Path(folder) / "mps", number):
        command = [sys.executable, "-m", "dualteacher.benchmark.gpu_check", folder]
        runs = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8") for _ in range(number)]
        try:
            while len(list(Path(folder).glob("*.ready"))) < number:
                if any(run.poll() for run in runs):
                    raise UserError("gpu-check: one of the runs side by side failed; its error is above")
                time.sleep(0.05)
            Path(folder, "go").touch()
            seconds = [float(run.communicate()[0].splitlines()[-1]) for run in runs]
        finally:
            for run in runs:
                run.kill()
    return number * STEPS / max(seconds)


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
            sys.exit(not main(Path("gpu-check.json")))
        except UserError as error:
            sys.exit(f"error: {error}")
