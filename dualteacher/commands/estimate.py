"""Estimate disk space, GPU memory and GPU time for the grid (`estimate`), before anything is downloaded.

Nothing is run. The network is built on torch's `meta` device, to count the FLOPs of one crop and the bytes it saves
for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dualteacher import methods, settings
from dualteacher.data import official_lists, partition
from dualteacher.data.channels import RGB, Channels
from dualteacher.data.pack import Pack
from dualteacher.methods.supervised import Supervised
from dualteacher.models import blocks, recompute, segmenter
from dualteacher.reporting.tables import duration
from dualteacher.settings import Length, Settings
from dualteacher.system import paths
from dualteacher.training.job import steps_per_epoch, total_steps

BACKWARD = 2  # cost of a backward pass, in forward passes of what is trained
# Assumed range of sustained TFLOP/s, unless --tflops is given. The lower end fits published times
# (UniMatch's logs: ResNet-101, VOC, 20 h on four GPUs).
RATES = (3.0, 30.0)
STEP = 0.05  # seconds per step at least, assumed: even a small network launches thousands of kernels
ONE_GPU = 80e9  # bytes; larger estimates get a hint
SLACK = 1.25  # factor for the allocator and kernel workspaces, assumed


@dataclass(frozen=True)
class Size:
    """A dataset: bytes of its archives and of both packs, numbers of images and classes."""

    archives: float
    packs: float
    train: int
    val: int
    classes: int
    channels: Channels = RGB


# As published, rounded.
SIZES = {
    "ade20k": Size(0.97e9, 1.0e9, 20210, 2000, 150),
    "voc classic": Size(2.0e9, 1.4e9, 10582, 1449, 21),
    "voc blended": Size(3.4e9, 1.5e9, 10582, 1449, 21),
    "cityscapes": Size(11.8e9, 8.3e9, 2975, 500, 19),
    "coco": Size(20.4e9, 19.9e9, 118287, 5000, 81),
    "bluemarble": Size(0.03e9, 0.013e9, 734, 129, 10),
    "landcover": Size(0.03e9, 0.01e9, 576, 100, 6),
}


@dataclass(frozen=True)
class Network:
    """A network's cost for one image: parameters, FLOPs of forward and of backward, bytes saved for the backward."""

    parameters: int
    flops: float
    backward: float
    kept: float


def run(loaded: Settings, tflops: float | None) -> None:
    """Print the estimate."""
    rates = RATES if tflops is None else (tflops, tflops)
    print("An estimate, not a measurement.\n")
    total = [0.0, 0.0]  # seconds at the higher and the lower rate
    disk: list[tuple[str, float]] = []
    for dataset in loaded.grid.dataset:
        size = _size(loaded, dataset)
        if size is None:
            print(f"{dataset}: size unknown; run `python -m dualteacher prepare --dataset {dataset}` first")
            continue
        disk += [(f"archives of {dataset}", size.archives), (f"prepared images of {dataset}", size.packs)]
        student = segmenter.build(
            loaded.model, size.classes, None, drop_path=loaded.model.drop_path, channels=size.channels
        ).to("meta")
        network = measure(student, loaded.batch.crop)
        cells = list(_cells(loaded, dataset, size, student, network, rates))
        print("\n".join(_table(cells)))
        if max((cell["memory"] for cell in cells), default=0.0) > ONE_GPU:
            print("More than an 80 GB GPU has: raise batch.accumulate, or lower the batch sizes or batch.crop.")
        runs = sum(cell["runs"] for cell in cells)
        total = [sum(cell["runs"] * cell["seconds"][i] for cell in cells) + total[i] for i in (0, 1)]
        left_out = loaded.model.freeze == "backbone" and loaded.model.weights != "none"  # see models/saved.py
        stored = sum(p.numel() for p in student.parameters() if p.requires_grad or not left_out)
        disk += [(f"trained networks, {runs} runs on {dataset}", runs * 4.0 * stored)]
        disk += [("a checkpoint during training", max((cell["state"] for cell in cells), default=0.0))]
    if not disk:
        return
    print(f"\nGPU time of all runs: about {_time(total)}\n")
    for what, size_of in disk:
        print(f"disk: {what}: about {_gigabytes(size_of)}")
    print(f"total disk: about {_gigabytes(sum(value for _, value in disk))}; DVC caches a copy, except of archives\n")
    print(_how(loaded, rates))


def _size(loaded: Settings, dataset: str) -> Size | None:
    """The size of the prepared dataset, else of the published one; None if neither is known."""
    described, place = loaded.datasets[dataset], paths.Dataset(dataset)
    name = f"voc {described.protocol}" if isinstance(described, settings.VOC) else described.source
    known = SIZES.get(name)
    if not (place.train.exists() and place.val.exists()):
        return known
    packs = [Pack(place.train), Pack(place.val)]
    raw = sum(path.stat().st_size for path in place.raw.rglob("*") if path.is_file())
    stored = sum(pack.path.stat().st_size for pack in packs)
    return Size(raw, stored, len(packs[0]), len(packs[1]), packs[0].num_classes, packs[0].channels)


def measure(student: segmenter.Segmenter, side: int) -> Network:
    """Count the student's FLOPs and saved bytes for a crop of `side` pixels, on the meta device."""
    own = {tensor.untyped_storage()._cdata for tensor in (*student.parameters(), *student.buffers())}
    kept: dict[int, int] = {}  # storage id → bytes

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # a freed storage's id could be reused
        return tensor

    def seen(block: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        note(inputs[0])

    alive: list[torch.Tensor] = []
    images = 2  # batch normalisation needs two
    batch = torch.empty(images, student.channels.count, side, side, device="meta")
    student.train()
    # Checkpointing keeps its blocks' inputs out of the hooks' sight.
    recomputed = recompute.recomputed(student)
    watched = [block.register_forward_pre_hook(seen) for block in recomputed]
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        FlopCounterMode(display=False) as count,
    ):
        student(batch)
    for hook in watched:
        hook.remove()
    flops = {name: sum(ops.values()) / images for name, ops in count.get_flop_counts().items()}
    root = type(student).__name__
    frozen = {key for key, parameter in student.named_parameters(root) if not parameter.requires_grad}
    saved = sum(flops.get(name, 0.0) for name in blocks.largest(student, root, frozen))
    total = count.get_total_flops() / images
    backward = BACKWARD * (total - saved) + (flops[f"{root}.backbone"] - saved if recomputed else 0.0)
    parameters = sum(parameter.numel() for parameter in student.parameters())
    return Network(parameters, total, backward, sum(kept.values()) / images)


def _cells(
    loaded: Settings, dataset: str, size: Size, student: segmenter.Segmenter, network: Network,
    rates: tuple[float, float],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """For each partition, warm-up and methods: the cost of one run and the number of runs."""
    slots = 2 if loaded.optimizer.name == "adamw" else 1  # optimiser state, in copies of the parameters
    for name in loaded.grid.partitions:
        labelled, unlabelled = _images(loaded, dataset, name, size)
        runs: list[tuple[str, Length]] = [("warmup", loaded.warmup)]
        runs += [(method, loaded.train) for method in loaded.grid.methods_on(name)]
        for method, length in runs:
            warmup = method == "warmup"
            built = Supervised(None, loaded, student) if warmup else methods.build(method, loaded, student)
            gradient, labelling = built.images_seen()
            steps = total_steps(length, steps_per_epoch(length, loaded.batch, labelled, unlabelled))
            work = steps * ((network.flops + network.backward) * gradient + network.flops * labelling)
            networks = (student, *built.partners, *built.teachers)
            held = {parameter for one in networks for parameter in one.parameters()}  # each once: some share
            trained = sum(p.numel() for p in held if p.requires_grad)
            frozen = sum(p.numel() for p in student.parameters() if not p.requires_grad)
            state = 4.0 * (sum(p.numel() for p in held) - frozen + slots * trained)
            memory = SLACK * (state + 4.0 * (frozen + trained) + gradient / loaded.batch.accumulate * network.kept)
            seconds = [max(steps * STEP, work / rate / 1e12) for rate in sorted(rates, reverse=True)]
            if steps:
                yield {
                    **{"partition": name, "method": method, "runs": len(loaded.grid.seed), "labelled": labelled},
                    **{"steps": steps, "images": gradient + labelling, "memory": memory, "state": state},
                    **{"seconds": seconds},
                }


def _images(loaded: Settings, dataset: str, name: str, size: Size) -> tuple[int, int]:
    """(labelled, unlabelled) images of a partition: from its file if it exists, else from params.yaml."""
    table = paths.Partition(dataset, name, loaded.grid.seed[0]).table
    if table.exists():
        read = partition.read(table)
        return len(read.labelled), len(read.unlabelled)
    wanted = loaded.partition[name]
    left = 1 - (wanted.held_out or 0.0)  # approximate: whole blocks are held out
    drawn, unlabelled = _drawn(loaded, dataset, wanted, size)
    return max(1, round(left * drawn)), unlabelled


def _drawn(loaded: Settings, dataset: str, wanted: settings.Partition, size: Size) -> tuple[int, int]:
    """(labelled images including those held out, unlabelled ones)."""
    if wanted.list is not None:
        official = official_lists.official(loaded.datasets[dataset].source, wanted.list)
        labelled, rest = official.labelled.lines, official.unlabelled
        return labelled, size.train - labelled if rest is None else rest.lines
    drawn = size.train
    if wanted.fraction is not None:
        drawn = max(1, round(wanted.fraction * size.train))
    elif isinstance(wanted.count, int):
        drawn = wanted.count
    return drawn, size.train - drawn


def _table(cells: list[dict[str, Any]]) -> Iterator[str]:
    heads = ("partition", "method", "runs", "labelled", "steps", "images/step", "GPU memory", "GPU time/run")
    rows = [
        (
            *(cell["partition"], cell["method"], str(cell["runs"]), f"{cell['labelled']:,}", f"{cell['steps']:,}"),
            *(str(cell["images"]), _gigabytes(cell["memory"]), _time(cell["seconds"])),
        )
        for cell in cells
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        yield "  ".join(
            text.ljust(width) if place < 2 else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()


def _time(seconds: list[float]) -> str:
    """«14.4 h … 144 h», at the higher and at the lower rate."""
    fast, slow = map(duration, seconds)
    return fast if fast == slow else f"{fast} … {slow}"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size < 100e9 else f"{size / 1e9:.0f} GB"


def _how(loaded: Settings, rates: tuple[float, float]) -> str:
    side, half = loaded.batch.crop, loaded.runtime.precision != "float32"
    sustained = f"{rates[0]:g}" if rates[0] == rates[1] else f"{rates[0]:g} … {rates[1]:g}"
    return (
        f"Time: the FLOPs of a forward pass over one {side}×{side} crop for each image, and of a backward pass for each"
        f" training image, on a GPU that sustains {sustained} TFLOP/s; at least {STEP:g} s per step. The rate is an"
        " assumption: time a few minutes of a real run and set --tflops. Data loading, validation and the final"
        " evaluation are not included.\n"
        "Memory: weights, gradients, optimiser state, teachers and saved activations in float32, times an assumed"
        f" {SLACK:g}{'; bfloat16 takes less' if half else ''}. Disk: for data not yet here, the rounded sizes of the"
        " published archives."
    )
