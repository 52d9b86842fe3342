"""Choosing a few of many images, given what is known of each. The same numbers give the same choice."""

from __future__ import annotations

import numpy as np


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest of scores (n,), largest first; of equals the first."""
    return np.argsort(-scores, kind="stable")[:count]


def k_centre(features: np.ndarray, centres: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Greedy k-centre (Sener & Savarese, ICLR 2018): again and again what lies farthest from all that is chosen.

    features (n, d) of the candidates, centres (m, d) of what is labelled already → places (count,) in the order of
    choice and the distance (count,) that each had then. Without centres the first is the one nearest to the mean, at
    distance 0. Of equals the first.
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
        nearest[chosen] = -1.0  # not again, even where all distances are 0
    return np.array(chosen, np.int64), np.array(distances)


def _distances(features: np.ndarray, point: np.ndarray) -> np.ndarray:
    return np.linalg.norm(features - point, axis=1)
