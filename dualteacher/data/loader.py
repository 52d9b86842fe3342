"""Batches as a pure function of the step.

Step s takes the labelled images s·B … s·B + B - 1 of an endless stream of shuffled passes; likewise for unlabelled
images. Order and augmentation depend only on (seed, role, pass, image). So the number of workers and resuming do not
change a batch, and all methods see the same labelled images, identically augmented, in the same order.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dualteacher.core import seeds, views
from dualteacher.core.labels import IGNORE
from dualteacher.core.transfer import unit_range
from dualteacher.data import augment
from dualteacher.data.pack import Pack
from dualteacher.machine.shared_memory import PREFETCH
from dualteacher.settings import Augment


class StepBatch(NamedTuple):
    """One step's batch as loaded; U may be 0.

    labelled (B, C, S, S) levels, uint8 or float32, label (B, S, S) uint8, labelled_factors (B, 4) colour factors;
    unlabelled (U, C, S, S) levels, inside (U, S, S) bool (False in the padding), unlabelled_factors (U, 4).
    """

    labelled: Tensor
    label: Tensor
    labelled_factors: Tensor
    unlabelled: Tensor
    inside: Tensor
    unlabelled_factors: Tensor

    def shards(self, count: int) -> list[StepBatch]:
        """Split into `count` equal parts, each with labelled and unlabelled images."""
        return [StepBatch(*parts) for parts in zip(*(tensor.chunk(count) for tensor in self), strict=True)]

    def to(self, device: torch.device) -> StepBatch:
        return StepBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Images(NamedTuple):
    """A batch on the device after weak augmentation: floats in [0, 1], int64 labels."""

    labelled: Tensor  # (B, C, S, S)
    label: Tensor  # (B, S, S) int64
    unlabelled: Tensor  # (U, C, S, S)
    inside: Tensor  # (U, S, S) bool


def finish(batch: StepBatch) -> Images:
    """Convert to float and apply the colour factors, on the device, for the whole batch."""
    labelled = views.jitter(unit_range(batch.labelled), batch.labelled_factors)
    unlabelled = unit_range(batch.unlabelled)
    if len(unlabelled):
        unlabelled = views.jitter(unlabelled, batch.unlabelled_factors)
    return Images(labelled, batch.label.long(), unlabelled, batch.inside)


@dataclass(frozen=True)
class Item:
    """A request to a worker: row `index` of the pack, in pass `turn` over its role's images."""

    role: str
    turn: int
    index: int
    wanted: int | None = None  # a class that the crop should contain


class Stream:
    """An endless stream of shuffled passes over `indices`; an Item depends only on its position."""

    def __init__(self, role: str, indices: np.ndarray, seed: int) -> None:
        if not len(indices):
            raise ValueError(f"no {role} images")
        self.role, self.indices, self.seed = role, indices, seed
        self._turn, self._order = -1, indices

    def __getitem__(self, position: int) -> Item:
        turn, place = divmod(position, len(self.indices))
        if turn != self._turn:
            rng = seeds.generator(self.seed, "order", self.role, turn)
            self._turn, self._order = turn, rng.permutation(self.indices)
        return Item(self.role, turn, int(self._order[place]))


class RareStream(Stream):
    """Rare-class sampling (Hoyer et al., DAFormer, CVPR 2022): sample a class, then an image that contains it.

    A class with pixel share f has probability exp((1 - f) / T), normalised; T is the temperature. pixels: counts
    (images, classes) for the images of `indices`. Each position is sampled and augmented independently.
    """

    def __init__(self, role: str, indices: np.ndarray, seed: int, pixels: np.ndarray, temperature: float) -> None:
        super().__init__(role, indices, seed)
        self.shown = [indices[column > 0] for column in pixels.T]
        share = pixels.sum(0) / max(1, pixels.sum())
        weight = np.where(share > 0, np.exp((share[share > 0].min(initial=1.0) - share) / temperature), 0.0)
        self.probability = weight / weight.sum()

    def __getitem__(self, position: int) -> Item:
        rng = seeds.generator(self.seed, "rare classes", self.role, position)
        wanted = int(rng.choice(len(self.probability), p=self.probability))
        return Item(self.role, position, int(rng.choice(self.shown[wanted])), wanted)


class Augmented(Dataset):
    """Decodes and weakly augments the images of Items."""

    def __init__(self, pack: Pack, settings: Augment, side: int, pad: np.ndarray, seed: int) -> None:
        self.pack, self.settings, self.side, self.pad, self.seed = pack, settings, side, pad, seed

    def __getitem__(self, item: Item) -> augment.Example:
        # An unlabelled image's mask is never read, even if the dataset has one.
        mask = self.pack.mask(item.index) if item.role == "labelled" else None
        rng = seeds.generator(self.seed, "augment", item.role, item.turn, self.pack.ids[item.index])
        size = self.pack.size(item.index)
        example = augment.weak(
            *(size, lambda least: self.pack.image(item.index, least), mask, self.settings, self.side, self.pad, rng),
            item.wanted,
        )
        if not self.pack.channels.starts_with_rgb:
            views.neutralise_colour(example.factors)
        return example


class Take(NamedTuple):
    """A step's share of a stream: `size` images over all processes, of which this process loads `share`."""

    stream: Stream
    size: int
    share: slice

    def items(self, step: int) -> list[Item]:
        """This process's Items of a step."""
        return [self.stream[step * self.size + i] for i in range(self.share.start, self.share.stop)]


class Steps:
    """Batch sampler for steps `first` … `last - 1`."""

    def __init__(self, takes: list[Take], first: int, last: int) -> None:
        self.takes, self.first, self.last = takes, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[Item]]:
        for step in range(self.first, self.last):
            yield [item for take in self.takes for item in take.items(step)]


class _Collate:
    """Stacks samples into a StepBatch; the first `labelled` samples are labelled."""

    def __init__(self, labelled: int) -> None:
        self.labelled = labelled

    def __call__(self, samples: list[augment.Example]) -> StepBatch:
        known, unknown = samples[: self.labelled], samples[self.labelled :]
        shape = samples[0].image.shape
        images, masks, factors = zip(*map(self._stack, (known, unknown), (shape, shape)), strict=True)
        return StepBatch(images[0], masks[0], factors[0], images[1], masks[1] != IGNORE, factors[1])

    @staticmethod
    def _stack(samples: list[augment.Example], shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        if not samples:
            side, _, channels = shape
            empty = torch.zeros((0, side, side), dtype=torch.uint8)
            return empty[:, None].expand(0, channels, side, side), empty, torch.zeros((0, 4))
        image = torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2).contiguous()
        mask = torch.from_numpy(np.stack([s.mask for s in samples]))
        return image, mask, torch.from_numpy(np.stack([s.factors for s in samples]))


def _end_with_parent(_: int) -> None:
    """Worker init: exit when the training process dies; torch workers do not notice its kill -9."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def batches(
    dataset: Augmented, takes: list[Take], first: int, last: int, *, workers: int, pin: bool, prefetch: int = PREFETCH
) -> DataLoader:
    """A loader for steps `first` … `last - 1`. takes: of the labelled stream, then optionally the unlabelled one."""
    if workers:
        multiprocessing.set_forkserver_preload([__name__])  # else each worker spends seconds on importing torch
    return DataLoader(
        dataset,
        batch_sampler=Steps(takes, first, last),
        collate_fn=_Collate(takes[0].share.stop - takes[0].share.start),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=False,
        worker_init_fn=_end_with_parent,
        # fork is unsafe with running thread pools (torch, Arrow); spawn takes seconds per worker
        multiprocessing_context="forkserver" if workers else None,
    )
