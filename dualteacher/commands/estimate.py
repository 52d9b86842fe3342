"""What the grid of params.yaml will take: disk, GPU memory and GPU time, estimated before anything is there.

Nothing is measured on the user's machine. The network is built without values (torch's `meta` device), its
arithmetic is counted for one crop, and so are the bytes it keeps for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dualteacher import methods, settings
from dualteacher.data import official_lists, partition
from dualteacher.data.pack import Pack
from dualteacher.methods.supervised import Supervised
from dualteacher.models import segmenter
from dualteacher.reporting.tables import duration
from dualteacher.settings import Length, Settings
from dualteacher.system import paths
from dualteacher.training.loop import steps_per_epoch

PASSES = 3  # forward and backward, in forward passes
# TFLOP/s that a GPU keeps up over a run, from … to: assumed, unless --tflops says it. The lower one is what published
# times come to by this count (UniMatch's released logs: ResNet-101, VOC, 20 h on four GPUs).
RATES = (3.0, 30.0)
STEP = 0.05  # s; a step of even a small network starts some thousand kernels one after another: assumed
ONE_GPU = 80e9  # bytes; more than that is said
SLACK = 1.25  # what the allocator and kernels' workspaces take on top: an assumption


@dataclass(frozen=True)
class Size:
    """A data set as published: bytes of the archives and of both packs, training and validation images."""

    archives: float
    packs: float
    train: int
    val: int
    classes: int


SIZES = {
    "ade20k": Size(0.97e9, 1.0e9, 20210, 2000, 150),
    "voc classic": Size(2.0e9, 1.4e9, 10582, 1449, 21),
    "voc blended": Size(3.4e9, 1.5e9, 10582, 1449, 21),
    "cityscapes": Size(11.8e9, 8.3e9, 2975, 500, 19),
    "bluemarble": Size(0.03e9, 0.013e9, 734, 129, 10),
}


@dataclass(frozen=True)
class Network:
    """A network on one image: parameters, operations forward, bytes kept for the backward pass."""

    parameters: int
    flops: float
    kept: float


def run(loaded: Settings, tflops: float | None) -> None:
    """Print the estimate."""
    rates = RATES if tflops is None else (tflops, tflops)
    print("An estimate, not a measurement.\n")
    total = [0.0, 0.0]  # seconds at either rate
    disk: list[tuple[str, float]] = []
    for dataset in loaded.grid.dataset:
        size = _size(loaded, dataset)
        if size is None:
            print(f"{dataset}: its size is known once it is prepared (`python -m dualteacher prepare …`)")
            continue
        disk += [(f"archives of {dataset}", size.archives), (f"prepared images of {dataset}", size.packs)]
        student = segmenter.build(loaded.model, size.classes, None, drop_path=loaded.model.drop_path).to("meta")
        network = measure(student, loaded.batch.crop)
        cells = list(_cells(loaded, dataset, size, student, network, rates))
        print("\n".join(_table(cells)))
        if max((cell["memory"] for cell in cells), default=0.0) > ONE_GPU:
            print("More than one 80 GB GPU holds: raise batch.accumulate, or lower batch or batch.crop.")
        runs = sum(cell["runs"] for cell in cells)
        total = [sum(cell["runs"] * cell["seconds"][i] for cell in cells) + total[i] for i in (0, 1)]
        disk += [(f"trained networks, {runs} runs on {dataset}", runs * 4.0 * network.parameters)]
        disk += [("a checkpoint while a run lasts", max((cell["state"] for cell in cells), default=0.0))]
    if not disk:
        return
    print(f"\nGPU time of all runs: about {_time(total)}\n")
    for what, size_of in disk:
        print(f"disk: {what}: about {_gigabytes(size_of)}")
    print(f"disk in all: about {_gigabytes(sum(value for _, value in disk))}; DVC keeps a copy of all but archives\n")
    print(_how(loaded, rates))


def _size(loaded: Settings, dataset: str) -> Size | None:
    """What is on disk if it is prepared, else what is known of the published data."""
    described, place = loaded.datasets[dataset], paths.Dataset(dataset)
    name = f"voc {described.protocol}" if isinstance(described, settings.VOC) else described.source
    known = SIZES.get(name)
    if not (place.train.exists() and place.val.exists()):
        return known
    packs = [Pack(place.train), Pack(place.val)]
    raw = sum(path.stat().st_size for path in place.raw.rglob("*") if path.is_file())
    stored = sum(pack.path.stat().st_size for pack in packs)
    return Size(raw, stored, len(packs[0]), len(packs[1]), len(packs[0].classes))


def measure(student: segmenter.Segmenter, side: int) -> Network:
    """Count the student's arithmetic and what it keeps, for a crop of `side` pixels; no values are computed."""
    own = {tensor.untyped_storage()._cdata for tensor in (*student.parameters(), *student.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # else another storage could take its place and name
        return tensor

    alive: list[torch.Tensor] = []
    images = 2  # batch normalisation wants two
    batch = torch.empty(images, 3, side, side, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), FlopCounterMode(display=False) as count:
        student.train()(batch)
    parameters = sum(parameter.numel() for parameter in student.parameters())
    return Network(parameters, count.get_total_flops() / images, sum(kept.values()) / images)


def _cells(
    loaded: Settings, dataset: str, size: Size, student: segmenter.Segmenter, network: Network,
    rates: tuple[float, float],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Warm-up and each method by partition: what one run takes, and how many runs there are."""
    slots = 2 if loaded.optimizer.name == "adamw" else 1
    for name in loaded.grid.partitions:
        labelled = _labelled(loaded, dataset, name, size)
        runs: list[tuple[str, Length]] = [("warmup", loaded.warmup)]
        runs += [(method, loaded.train) for method in loaded.grid.methods_on(name)]
        for method, length in runs:
            warmup = method == "warmup"
            built = Supervised(None, loaded, student) if warmup else methods.build(method, loaded, student)
            gradient, labelling = built.images_seen()
            steps = _steps(length, labelled, loaded.batch.labelled)
            work = steps * network.flops * (PASSES * gradient + labelling)
            networks = 1 + len(built.teachers)
            state = 4.0 * network.parameters * (networks + slots)
            memory = SLACK * (state + 4.0 * network.parameters + gradient / loaded.batch.accumulate * network.kept)
            seconds = [max(steps * STEP, work / rate / 1e12) for rate in sorted(rates, reverse=True)]
            if steps:
                yield {
                    **{"partition": name, "method": method, "runs": len(loaded.grid.seed), "labelled": labelled},
                    **{"steps": steps, "images": gradient + labelling, "memory": memory, "state": state},
                    **{"seconds": seconds},
                }


def _labelled(loaded: Settings, dataset: str, name: str, size: Size) -> int:
    """Labelled images of a partition: of its file if it is there, else as params.yaml asks."""
    table = paths.Partition(dataset, name, loaded.grid.seed[0]).table
    if table.exists():
        return len(partition.read(table).labelled)
    wanted = loaded.partition[name]
    left = 1 - (wanted.held_out or 0.0)  # roughly: whole blocks leave
    return max(1, round(left * _drawn(loaded, dataset, wanted, size)))


def _drawn(loaded: Settings, dataset: str, wanted: settings.Partition, size: Size) -> int:
    """Labelled images, those held out included."""
    if wanted.list is not None:
        return official_lists.official(loaded.datasets[dataset].source, wanted.list).labelled.lines
    if wanted.fraction is not None:
        return max(1, round(wanted.fraction * size.train))
    return size.train if wanted.count == "all" or wanted.count is None else int(wanted.count)


def _steps(length: Length, labelled: int, batch: int) -> int:
    return length.steps if length.steps is not None else (length.epochs or 0) * steps_per_epoch(labelled, batch)


def _table(cells: list[dict[str, Any]]) -> Iterator[str]:
    heads = ("partition", "method", "runs", "labelled", "steps", "images a step", "GPU memory", "GPU time a run")
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
    """«14.4 h … 144 h»: at the higher and at the lower rate."""
    fast, slow = map(duration, seconds)
    return fast if fast == slow else f"{fast} … {slow}"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size < 100e9 else f"{size / 1e9:.0f} GB"


def _how(loaded: Settings, rates: tuple[float, float]) -> str:
    side, half = loaded.batch.crop, loaded.runtime.precision == "bfloat16"
    kept_up = f"{rates[0]:g}" if rates[0] == rates[1] else f"{rates[0]:g} … {rates[1]:g}"
    return (
        f"How: the operations of a forward pass of one {side}×{side} crop are counted; training takes {PASSES} such"
        f" passes an image, labelling one. The time is for a GPU that keeps up {kept_up} TFLOP/s over the run, which is"
        " assumed, not known: a few minutes of a real run say more, and --tflops sets it; a step takes"
        f" {STEP:g} s at least. Reading images, validation and the final evaluation come on top.\n"
        "The memory is weights, gradients, optimiser state, teachers, and what the forward pass keeps for the backward"
        f" one in float32, times {SLACK:g}, which is assumed too{'; bfloat16 takes less' if half else ''}. Sizes of"
        " data that is not here are those of the published archives, rounded."
    )
