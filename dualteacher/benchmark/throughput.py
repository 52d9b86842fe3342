"""The loader alone, and evaluation against the network's own speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualteacher.benchmark.cases import Case
from dualteacher.benchmark.measure import interleaved, summary, wait
from dualteacher.benchmark.programs import networks
from dualteacher.data import loader
from dualteacher.data.pack import Pack
from dualteacher.evaluation.inference import Predictor, network_size, same_size_runs
from dualteacher.evaluation.scoring import score


def loading(case: Case, pack: Pack, steps: int) -> dict[str, Any]:
    """Images a second that are decoded and weakly augmented, in this process and in one worker."""
    settings = case.settings()
    dataset = loader.Augmented(pack, settings.augment, case.side, np.full(3, 128, np.uint8), 0)
    labelled = loader.Stream("labelled", np.arange(len(pack)), 0)
    unlabelled = loader.Stream("unlabelled", np.arange(len(pack)), 0)
    takes = [
        loader.Take(stream, count, slice(0, count))
        for stream, count in ((labelled, case.labelled), (unlabelled, case.unlabelled))
    ]
    images = (case.labelled + case.unlabelled) * steps
    seconds = {}
    for workers in (0, 1):
        batches = iter(loader.batches(dataset, takes, 0, steps + 1, workers=workers, pin=False))
        next(batches)  # the worker's start does not count
        began = time.perf_counter()
        for _ in batches:
            pass
        seconds[workers] = time.perf_counter() - began
    return {f"images_per_second_{workers}_workers": round(images / taken, 1) for workers, taken in seconds.items()}


def evaluating(case: Case, pack: Pack, device: torch.device, repeats: int) -> dict[str, Any]:
    """Seconds to score the pack, decoding included, and of the network alone on the same images, in memory."""
    score_pack, network = evaluators(case, pack, device)
    times = interleaved({"evaluate": lambda step: score_pack(), "network": lambda step: network()}, repeats, device)
    found = {name: summary(seconds) for name, seconds in times.items()}
    share = found["network"]["median_seconds"] / found["evaluate"]["median_seconds"]
    return {
        **found,
        "images": len(pack),
        "images_per_second": round(len(pack) / found["evaluate"]["median_seconds"], 2),
        "share_of_the_networks_speed": round(share, 3),
    }


def evaluators(case: Case, pack: Pack, device: torch.device) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Functions that score the pack, and that run the network alone over its images."""
    settings, student, _ = networks(case, device)
    student.eval()
    inference = settings.inference
    predictor = Predictor(student, inference)
    runs = list(same_size_runs(pack, range(len(pack)), inference.batch))

    sizes = [(len(run), 3, *network_size(pack.size(run[0]), inference)) for run in runs]
    ready = {size: torch.rand(size, device=device) for size in set(sizes)}

    def network() -> None:
        for size in sizes:
            with torch.no_grad():
                student(ready[size])
        wait(device)

    def whole() -> None:
        score(predictor, pack, device, inference.batch)
        wait(device)

    return whole, network


def open_pack(case: Case, folder: Path, count: int) -> Pack:
    """A made-up split in `folder`."""
    path = folder / f"{case.side}-{case.classes}-{count}.arrow"
    if not path.exists():
        case.write_pack(path, count)
    return Pack(path)
