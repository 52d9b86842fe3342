"""Run the benchmark cases; results as a text table and as JSON."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dualteacher import __version__
from dualteacher.benchmark import memory, profile, throughput
from dualteacher.benchmark.cases import Case
from dualteacher.benchmark.measure import host, in_a_process_of_its_own, interleaved, launches, prepare, summary
from dualteacher.machine.device import pick
from dualteacher.system import files
from dualteacher.system.console import logger

FORMAT = 1
NAMES = {
    "ours": "a: our step",
    "plain": "b: plain implementation",
    "plain_same_network": "b': plain, our network",
    "bare": "c: network passes only",
}
FEW, MANY = 48, 144  # images to evaluate (whole batches); peak memory should be the same for both
LOADED = 128  # images to time the loader on


def main(cases: Sequence[Case], device: str, threads: int | None, repeats: int, path: Path | None) -> None:
    """Measure and print the cases; write them to `path` as JSON, if given."""
    if path is not None:
        files.check_folder(path.parent)
    place = pick(device)
    prepare(place, threads or len(os.sched_getaffinity(0)))
    found = run(cases, place, repeats)
    if path is not None:
        files.write_json(path, found)


def profiles(cases: Sequence[Case], device: str, threads: int | None, repeats: int) -> None:
    """Print the profile of our training step for each case."""
    place = pick(device)
    prepare(place, threads or len(os.sched_getaffinity(0)))
    for case in cases:
        print(profile.table(case, profile.shares(case, place, repeats)), flush=True)


def run(cases: Sequence[Case], device: torch.device, repeats: int) -> dict[str, Any]:
    """Measure and print all cases; content of the JSON file."""
    found = []
    for case in cases:
        logger.info("%s", case.name)
        found.append(measure(case, device, repeats))
        print(table([found[-1]]), flush=True)
    return {"format": FORMAT, "machine": machine(device), "repeats": repeats, "cases": found}


def measure(case: Case, device: torch.device, repeats: int) -> dict[str, Any]:
    """Results of one case."""
    steps = measure_steps(case, device, repeats)
    with tempfile.TemporaryDirectory() as folder:
        few, many = (throughput.open_pack(case, Path(folder), count) for count in (FEW, MANY))
        loading = throughput.loading(case, few, LOADED // (case.labelled + case.unlabelled))
        evaluation = throughput.evaluating(case, few, device, max(2, repeats // 2))
        evaluation["peak_bytes"] = {
            str(len(pack)): _peak("evaluate", case, device, str(pack.path)) for pack in (few, many)
        }
    return {
        "name": case.name,
        "case": asdict(case),
        "steps": steps,
        "ratios": ratios(steps),
        "teachers_share_of_our_step": round(profile.teachers_share(profile.shares(case, device, repeats)), 3),
        "loader": loading,
        "evaluation": evaluation,
    }


def measure_steps(case: Case, device: torch.device, repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds, images per second and peak memory of each program; on a GPU, the host's part too."""
    programs = {name: make(case, device) for name, make in memory.PROGRAMS.items()}
    steps = {name: summary(seconds) for name, seconds in interleaved(programs, repeats, device).items()}
    if device.type == "cuda":
        for name, program in programs.items():
            steps[name]["host_seconds"] = summary(host(program, device, repeats))["median_seconds"]
            try:
                steps[name]["launches"] = launches(program, device)
            except RuntimeError as error:  # containers may forbid profiling
                logger.warning("%s: launches not counted: %s", name, str(error).splitlines()[0])
    programs.clear()
    images = case.labelled + 2 * case.unlabelled
    for name, figures in steps.items():
        figures["images_per_second"] = round(images / figures["median_seconds"], 2)
        figures["peak_bytes"] = _peak(name, case, device)
    return steps


def _peak(program: str, case: Case, device: torch.device, pack: str | None = None) -> int:
    what: dict[str, Any] = {"program": program, "case": asdict(case), "device": str(device), "pack": pack}
    what["threads"] = torch.get_num_threads()
    # the CUDA allocator's peak can be reset, a process's cannot
    return memory.run(**what) if device.type == "cuda" else in_a_process_of_its_own(what)


def ratios(steps: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The ratios for which docs/performance.md gives targets."""
    seconds = {name: figures["median_seconds"] for name, figures in steps.items()}
    peaks = {name: figures["peak_bytes"] for name, figures in steps.items()}
    return {
        "plain_over_ours": round(seconds["plain"] / seconds["ours"], 3),
        "plain_same_network_over_ours": round(seconds["plain_same_network"] / seconds["ours"], 3),
        "bare_over_ours": round(seconds["bare"] / seconds["ours"], 3),
        "memory_ours_over_plain": round(peaks["ours"] / max(1, peaks["plain"]), 3),
    }


def machine(device: torch.device) -> dict[str, Any]:
    """The machine's hardware and versions, without anything that identifies it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "dualteacher": __version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    found = next((line for line in lines if line.startswith("model name")), "")
    return found.partition(":")[2].strip() or platform.processor() or platform.machine()


def table(cases: Sequence[dict[str, Any]]) -> str:
    """Results as text, one block per case."""
    lines = []
    for found in cases:
        lines += [found["name"], f"  {'step':24} {'median':>9} {'min – max':>19} {'images/s':>9} {'peak MB':>8}"]
        for name, figures in found["steps"].items():
            spread = f"{figures['least_seconds']:.3f} – {figures['most_seconds']:.3f} s"
            lines.append(
                f"  {NAMES[name]:24} {figures['median_seconds']:7.3f} s {spread:>19}"
                f" {figures['images_per_second']:9.1f} {figures['peak_bytes'] / 2**20:8.0f}"
            )
            if "launches" in figures:
                lines.append(f"    host {1e3 * figures['host_seconds']:.1f} ms, {figures['launches']:.0f} launches")
        ratio, evaluation = found["ratios"], found["evaluation"]
        lines.append(
            f"  b/a {ratio['plain_over_ours']:.2f}, b'/a {ratio['plain_same_network_over_ours']:.2f},"
            f" c/a {ratio['bare_over_ours']:.2f}, memory a/b {ratio['memory_ours_over_plain']:.2f}"
        )
        which = "heads and moving averages" if found["case"]["freeze"] == "backbone" else "passes and moving averages"
        lines.append(f"  the teachers' {which}: {found['teachers_share_of_our_step']:.1%} of our step")
        here, worker = found["loader"].values()
        lines.append(f"  loader: {here:.0f} images/s in the main process, {worker:.0f} with one worker")
        flat = ", ".join(
            f"{size / 2**20:.0f} MB for {count} images" for count, size in evaluation["peak_bytes"].items()
        )
        lines.append(
            f"  evaluation: {evaluation['images_per_second']:.1f} images/s,"
            f" {evaluation['share_of_the_networks_speed']:.2f} of the speed of the network alone; {flat}"
        )
    return "\n".join(lines)
