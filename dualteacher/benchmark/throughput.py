"""Throughput of the loader, and of evaluation compared with the network alone."""

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
from dualteacher.core import losses, seeds
from dualteacher.data import loader
from dualteacher.data.pack import Pack
from dualteacher.evaluation.scoring import score
from dualteacher.inference.predictor import Predictor, network_size, same_size_runs, to_tensor
from dualteacher.machine.precision import autocast
from dualteacher.models.segmenter import Segmenter

LESSONS = 120  # training steps of the network before it is evaluated,
BATCH, SQUARE = 8, 96  # on this many square crops of this side (pixels)


def loading(case: Case, pack: Pack, steps: int) -> dict[str, Any]:
    """Images per second, decoded and weakly augmented, in this process and in one worker."""
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
        next(batches)  # excludes the worker's start
        began = time.perf_counter()
        for _ in batches:
            pass
        seconds[workers] = time.perf_counter() - began
    return {f"images_per_second_{workers}_workers": round(images / taken, 1) for workers, taken in seconds.items()}


def evaluating(case: Case, pack: Pack, device: torch.device, repeats: int) -> dict[str, Any]:
    """Seconds to score the pack, including decoding, and for the network alone on as many images in memory."""
    score_pack, network = evaluators(case, pack, device, LESSONS)
    times = interleaved({"evaluate": lambda step: score_pack(), "network": lambda step: network()}, repeats, device)
    found = {name: summary(seconds) for name, seconds in times.items()}
    share = found["network"]["median_seconds"] / found["evaluate"]["median_seconds"]
    return {
        **found,
        "images": len(pack),
        "images_per_second": round(len(pack) / found["evaluate"]["median_seconds"], 2),
        "share_of_the_networks_speed": round(share, 3),
    }


def evaluators(
    case: Case, pack: Pack, device: torch.device, lessons: int = 0
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Two functions: one scores the pack, one runs the network alone on images of the same sizes.

    `lessons` training steps come first. An untrained network's predictions change from pixel to pixel, which makes
    scoring slower than with a trained network's contiguous regions.
    """
    settings, student, _ = networks(case, device)
    learn(student, pack, device, lessons)
    student.eval()
    inference = settings.inference
    predictor = Predictor(student, inference)
    runs = list(same_size_runs(pack, range(len(pack)), inference.batch))

    sizes = [(len(run), 3, *network_size(pack.size(run[0]), inference)) for run in runs]
    ready = {size: torch.rand(size, device=device) for size in set(sizes)}

    def network() -> None:
        with torch.no_grad(), autocast(device, settings.runtime.precision):
            for size in sizes:
                student(ready[size])
        wait(device)

    def whole() -> None:
        with autocast(device, settings.runtime.precision):
            score(predictor, pack, device, inference.batch)
        wait(device)

    return whole, network


def learn(student: Segmenter, pack: Pack, device: torch.device, steps: int) -> None:
    """Brief supervised training on square crops of the pack's images."""
    groups = student.parameter_groups(3e-3, 3.0, 0.01)
    optimizer = torch.optim.AdamW(groups)
    rng = seeds.generator(0, "benchmark lessons")
    square = min(SQUARE, *pack.size(0))
    for _ in range(steps):
        images, labels = [], []
        for i in rng.integers(0, len(pack), BATCH):
            top, left = (int(rng.integers(0, side - square + 1)) for side in pack.size(int(i)))
            part = slice(top, top + square), slice(left, left + square)
            mask = pack.mask(int(i))
            assert mask is not None
            images.append(pack.image(int(i))[part])
            labels.append(mask[part])
        optimizer.zero_grad()
        label = torch.from_numpy(np.stack(labels)).to(device).long()
        losses.supervised_loss(student(to_tensor(images, device)), label).backward()
        optimizer.step()


def open_pack(case: Case, folder: Path, count: int) -> Pack:
    """A synthetic pack in `folder`, written if missing."""
    path = folder / f"{case.side}-{case.classes}-{count}.arrow"
    if not path.exists():
        case.write_pack(path, count)
    return Pack(path)
