"""The student's pass over the parts of a batch (labelled, mixed, strong, …), by `batch.norm`.

joint: one pass, so that batch normalisation uses the statistics of all parts together, and so do its running ones.
by_view: one pass per part, each with its own statistics. The running ones follow the first part only, the labelled
images: evaluation and the teachers use them on images that are neither mixed nor jittered strongly.
frozen: one pass. The backbone normalises with the running statistics it started with; see Segmenter.train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from dualteacher.models.segmenter import Segmenter

Perturb = Callable[[Tensor, int], Tensor]  # changes the last n images of a feature map (B, C, h, w)


def logits(network: Segmenter, parts: Sequence[Tensor], norm: str, perturb: Perturb | None = None) -> list[Tensor]:
    """Each part's logits. perturb: applied to the last part's feature maps."""
    sizes = [len(part) for part in parts]
    if norm != "by_view":
        last = sizes[-1] if perturb is not None else 0
        return list(_forward(network, torch.cat([*parts]), last, perturb).split(sizes))
    found = [network(parts[0])]
    with _running_statistics_kept(network):
        for number, part in enumerate(parts[1:], 1):
            last = len(part) if perturb is not None and number == len(parts) - 1 else 0
            found.append(_forward(network, part, last, perturb))
    return found


def _forward(network: Segmenter, images: Tensor, last: int, perturb: Perturb | None) -> Tensor:
    if perturb is None or not last:
        return network(images)
    return network.head([perturb(level, last) for level in network.features(images)])


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
