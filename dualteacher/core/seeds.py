"""Random draws as pure functions of (seed, purpose, position).

There is no shared random state: each purpose (data order, augmentation, mixing, dropout, …) derives its own generator
from the run's seed and its position. So all methods see the same draws, whatever the number of loader workers, and a
resumed run needs no stored random state.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, purpose: str, *position: int | str) -> int:
    """A 63-bit seed for `purpose` at `position` (step, epoch, image index, …)."""
    text = "\x1f".join([str(seed), purpose, *map(str, position)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *position: int | str) -> np.random.Generator:
    """A NumPy generator for `purpose` at `position`; cheap enough to make one per image."""
    return np.random.Generator(np.random.PCG64(derive(seed, purpose, *position)))
