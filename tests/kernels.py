"""Compiles the CPU's sweeps, or loads what has been compiled: `python -m tests.kernels` fills the cache on disk."""

from __future__ import annotations

import numpy as np

from dualteacher.core.upsampling import cpu, numba_kernels


def load() -> None:
    """Call each kernel once, with the types that training and evaluation use."""
    logits, label = np.zeros((1, 2, 2, 3), np.float32), np.zeros((1, 4, 4), np.int64)
    for weight in (None, np.ones((1, 4, 4), np.float32)):
        cpu.cross_entropy(logits, label, weight, 255)
    for with_confidence in (False, True):
        cpu.label_and_confidence(logits, (4, 4), with_confidence)
    cpu.enlarge(logits, (4, 4))
    numba_kernels.count_pairs(np.zeros(4, np.uint8), np.zeros(4, np.int64), 3, 255, np.zeros(11, np.int64))


if __name__ == "__main__":
    load()
