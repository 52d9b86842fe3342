"""Choose images by score or by distance. Deterministic: ties go to the first image."""

from __future__ import annotations

import numpy as np


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest of scores (n,), largest first."""
    return np.argsort(-scores, kind="stable")[:count]


def k_centre(features: np.ndarray, centres: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Greedy k-centre (Sener & Savarese, ICLR 2018): repeatedly choose the candidate farthest from all chosen ones.

    features (n, d): the candidates. centres (m, d): already chosen. Returns the indices (count,) in order of choice,
    and the distance (count,) of each at that time. Without centres, the first is the candidate nearest to the mean,
    with distance 0.
    """
    features, centres = features.astype(np.float64), centres.astype(np.float64)
    chosen: list[int] = []
    distances: list[float] = []
    nearest = np.full(len(features), np.inf)
    for centre in centres:
        nearest = np.minimum(nearest, _distances(features, centre))
    while len(chosen) < min(count, len(features)):
        if not chosen and not len(centres):
            place, distance = int(_distances(features, features.mean(0)).argmin()), 0.0
        else:
            place = int(nearest.argmax())
            distance = float(nearest[place])
        chosen.append(place)
        distances.append(distance)
        nearest = np.minimum(nearest, _distances(features, features[place]))
        nearest[chosen] = -1.0  # never twice, even if all distances are 0
    return np.array(chosen, np.int64), np.array(distances)


def _distances(features: np.ndarray, point: np.ndarray) -> np.ndarray:
    return np.linalg.norm(features - point, axis=1)
