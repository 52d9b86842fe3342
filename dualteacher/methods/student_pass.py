"""The student's pass over the parts of a batch (labelled, mixed, strong, …), by `batch.norm`.

joint: one pass, so that batch normalisation uses the statistics of all parts together, and so do its running ones.
by_view: one pass per part, each with its own statistics. The running ones follow the first part only, the labelled
images: evaluation and the teachers use them on images that are neither mixed nor jittered strongly.
frozen: one pass. The backbone normalises with the running statistics it started with; see Segmenter.train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from dualteacher.models.segmenter import Segmenter

Perturb = Mapping[int, Callable[[Tensor], Tensor]]  # by a part's index: changes its feature maps (B, C, h, w)
NOTHING: Perturb = MappingProxyType({})


class Features:
    """Feature maps of a step's views from a frozen backbone, computed once for all networks and passes that take them.

    Make one for each step with `once`.
    """

    def __init__(self, network: Segmenter) -> None:
        self.network = network
        self.found: dict[Tensor, list[Tensor]] = {}  # by view, the same tensor

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The maps of these views' images, in one batch, finest first."""
        new = [part for part in parts if part not in self.found]
        if new:
            sizes = [len(part) for part in new]
            levels = [level.split(sizes) for level in self.network.features(torch.cat(new))]
            self.found |= {part: [level[i] for level in levels] for i, part in enumerate(new)}
        return [torch.cat(pieces) for pieces in zip(*(self.found[part] for part in parts), strict=True)]


def once(network: Segmenter) -> Features | None:
    """Features to share within a step; None unless the whole backbone is frozen."""
    return Features(network) if network.frozen == ("backbone",) else None


def logits(
    network: Segmenter, parts: Sequence[Tensor], norm: str, perturb: Perturb = NOTHING, features: Features | None = None
) -> list[Tensor]:
    """Each part's logits. perturb: changes feature maps between backbone and head. features: see `once`."""
    if norm != "by_view":
        return list(_forward(network, parts, perturb, features))
    found = [*_forward(network, parts[:1], _of(perturb, 0), features)]
    with _running_statistics_kept(network):
        for number in range(1, len(parts)):
            found += _forward(network, parts[number : number + 1], _of(perturb, number), features)
    return found


def _of(perturb: Perturb, number: int) -> Perturb:
    """The perturbation of one part, as that of the only one."""
    return {0: perturb[number]} if number in perturb else NOTHING


def _forward(
    network: Segmenter, parts: Sequence[Tensor], perturb: Perturb, features: Features | None
) -> Sequence[Tensor]:
    """The parts' logits, in one pass."""
    sizes = [len(part) for part in parts]
    if not perturb and features is None:
        return network(torch.cat([*parts])).split(sizes)
    levels = []
    for level in network.features(torch.cat([*parts])) if features is None else features(parts):
        pieces = level.split(sizes)
        levels.append(torch.cat([perturb[i](piece) if i in perturb else piece for i, piece in enumerate(pieces)]))
    return network.head(levels).split(sizes)


@contextmanager
def _running_statistics_kept(network: Segmenter) -> Iterator[None]:
    """Normalise by batch, as in train mode, without updating the running statistics."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for module in norms:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in norms:
            module.track_running_stats = True
