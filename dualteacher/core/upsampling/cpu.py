"""CPU implementation: calls the Numba kernels on numpy arrays, in as many threads as torch uses.

Logits are (B, h, w, C) float32. Positions and borders are those of torch's interpolation (see `axis`). Work is split
into bands of input rows that depend on the shape only, so results do not depend on the number of threads.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from dualteacher.core.upsampling.numba_kernels import (
    BAND,
    Axis,
    RowRange,
    enlarge_rows,
    entropies,
    labels,
    largest,
)


@functools.lru_cache(maxsize=64)
def axis(output: int, size: int) -> Axis:
    """Positions of `output` pixels on `size` inputs: bilinear, align_corners=False, in float32 like torch."""
    if output < 1 or size < 1:
        raise ValueError(f"cannot resize {size} pixels to {output}")
    source = (np.arange(output, dtype=np.float32) + np.float32(0.5)) * np.float32(size / output) - np.float32(0.5)
    source = np.maximum(source, np.float32(0))
    low = np.minimum(source.astype(np.int64), size - 1)
    weight = np.clip(source - low.astype(np.float32), 0, 1).astype(np.float32)
    return Axis(low, np.minimum(low + 1, size - 1), weight)


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """The pool of one process (by id): a parent's threads do not survive a fork."""
    return ThreadPoolExecutor(threads, "upsampling")


def _share(work: Callable[[int, RowRange], None], images: int, height: int, rows: Axis) -> None:
    """Call work(image, band) for every band of every image, in as many threads as torch uses."""
    firsts = range(0, height, BAND)
    ends = [int(np.searchsorted(rows.low, first)) for first in (*firsts, height)]
    bands = [RowRange(*band) for band in zip(firsts, ends, ends[1:], strict=False)]
    queue = iter([(image, band) for image in range(images) for band in bands])

    def run() -> None:
        for image, band in queue:  # shared by all threads; the kernels release the GIL
            work(image, band)

    others = min(torch.get_num_threads(), images * len(bands)) - 1
    pool = _pool(torch.get_num_threads(), os.getpid())  # starts threads only when needed
    helpers = [pool.submit(run) for _ in range(others)]
    run()
    for helper in helpers:
        helper.result()


def cross_entropy(
    logits: np.ndarray, label: np.ndarray, weight: np.ndarray | None, ignore: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Cross entropy of upsampled logits, and its gradient.

    logits (B, h, w, C) float32, label (B, H, W) int64, weight (B, H, W) float32, all contiguous. Returns own and total,
    (B, H, W) float32, with p(label) = 2^own / total (1 where ignored); with `weight` also the gradient of Σ weight · CE
    with respect to the logits, (B, h, w, C). IndexError if a label is neither a class nor `ignore`.
    """
    images, height, width, classes = logits.shape
    if len(label) != images or (weight is not None and weight.shape != label.shape) or classes < 1:
        raise ValueError(f"logits {logits.shape} and labels {label.shape} do not fit")
    rows, columns = axis(label.shape[1], height), axis(label.shape[2], width)
    own, total = np.zeros(label.shape, np.float32), np.ones(label.shape, np.float32)
    wanted = weight is not None
    bands = -(-height // BAND)
    gradient = np.zeros(logits.shape if wanted else (images, 1, 1, 1), np.float32)
    carry = np.zeros((images, bands, width, classes) if wanted else (images, bands, 1, 1), np.float32)
    pull = own if weight is None else weight
    invalid = []

    def work(image: int, band: RowRange) -> None:
        if not entropies(
            logits[image], label[image], pull[image], ignore, wanted, band, rows, columns,
            own[image], total[image], gradient[image], carry[image, band.first // BAND],
        ):  # fmt: skip
            invalid.append(image)

    _share(work, images, height, rows)
    if invalid:
        raise IndexError(f"image {invalid[0]} of the batch has a label outside the {classes} classes")
    if not wanted:
        return own, total, None
    gradient[:, BAND::BAND] += carry[:, : bands - 1]
    return own, total, gradient


def label_and_confidence(
    logits: np.ndarray, size: tuple[int, int], with_confidence: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """logits (B, h, w, C) → argmax (B, H, W) int64 and its probability (B, H, W), empty unless `with_confidence`."""
    images, height, width, classes = logits.shape
    if classes < 1:
        raise ValueError(f"logits {logits.shape} have no class")
    rows, columns = axis(size[0], height), axis(size[1], width)
    label, confidence = (
        np.empty((images, *size), np.int64),
        np.empty((images, *size) if with_confidence else 0, np.float32),
    )

    def work(image: int, band: RowRange) -> None:
        if with_confidence:
            labels(logits[image], band, rows, columns, label[image], confidence[image])
        else:
            largest(logits[image], band, rows, columns, label[image])

    _share(work, images, height, rows)
    return label, confidence


@functools.lru_cache(maxsize=64)
def _channels_apart(output: int, size: int, channels: int) -> Axis:
    """The axis of a row whose pixels are `channels` interleaved numbers each."""
    low, high, weight = axis(output, size)
    channel = np.arange(channels)
    left, right = ((inputs[:, None] * channels + channel).ravel() for inputs in (low, high))
    return Axis(left, right, np.repeat(weight, channels))


def enlarge(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(B, h, w, C) float32 → (B, H, W, C), bilinear like torch, without antialiasing."""
    count, height, width, channels = images.shape
    rows, columns = axis(size[0], height), _channels_apart(size[1], width, channels)
    flat, out = images.reshape(count, height, -1), np.empty((count, size[0], size[1] * channels), np.float32)

    def work(image: int, band: RowRange) -> None:
        enlarge_rows(flat[image], band, rows, columns, out[image])

    _share(work, count, height, rows)
    return out.reshape(count, *size, channels)
