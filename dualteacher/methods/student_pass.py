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


def logits(network: Segmenter, parts: Sequence[Tensor], norm: str, perturb: Perturb = NOTHING) -> list[Tensor]:
    """Each part's logits. perturb: changes feature maps between backbone and head."""
    if norm != "by_view":
        return list(_forward(network, parts, perturb))
    found = [*_forward(network, parts[:1], _of(perturb, 0))]
    with _running_statistics_kept(network):
        for number in range(1, len(parts)):
            found += _forward(network, parts[number : number + 1], _of(perturb, number))
    return found


def _of(perturb: Perturb, number: int) -> Perturb:
    """The perturbation of one part, as that of the only one."""
    return {0: perturb[number]} if number in perturb else NOTHING


def _forward(network: Segmenter, parts: Sequence[Tensor], perturb: Perturb) -> Sequence[Tensor]:
    """The parts' logits, in one pass."""
    sizes = [len(part) for part in parts]
    images = torch.cat([*parts])
    if not perturb:
        return network(images).split(sizes)
    levels = []
    for level in network.features(images):
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
