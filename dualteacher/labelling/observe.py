"""Scores for unlabelled images: uncertainty, disagreement between networks, and pooled features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dualteacher.core import upsampling
from dualteacher.data.pack import Pack
from dualteacher.inference.predictor import Predictor, network_size, same_size_runs, to_tensor
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Inference
from dualteacher.system import console

VIEWS = ((1.0, False), (1.0, True), (0.75, False), (1.25, False))  # (scale, mirrored) of the image


class Observer:
    """Runs a network on a pack's images; one result per image, in the order given."""

    def __init__(self, model: Segmenter, pack: Pack, inference: Inference, device: torch.device) -> None:
        self.model, self.pack, self.inference, self.device = model, pack, inference, device
        self.predictor = Predictor(model, inference)

    def labels(self, images: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(class (H, W) uint8, confidence (H, W) float32: the largest softmax probability) of each image."""
        for pixels in self._batches(images, "label"):
            label, confidence = self.predictor.one_scale(pixels)
            yield from zip(label.to(torch.uint8).cpu().numpy(), confidence.cpu().numpy(), strict=True)

    def uncertainty(self, images: Sequence[int]) -> np.ndarray:
        """Mean of 1 - confidence over each image's pixels, (n,)."""
        return self._each(images, "uncertainty", lambda pixels: uncertainty(self.predictor.one_scale(pixels)[1]))

    def disagreement(self, images: Sequence[int], networks: Sequence[Segmenter]) -> np.ndarray:
        """Share of each image's pixels that two networks label differently, mean over all pairs, (n,).

        Without networks, compare this network's predictions of several views (VIEWS).
        """
        predictors = [Predictor(network, self.inference) for network in networks]

        def score(pixels: Tensor) -> Tensor:
            size = (pixels.shape[2], pixels.shape[3])
            if predictors:
                return disagreement([upsampling.argmax(one.logits(pixels), size) for one in predictors])
            return disagreement([self._view(pixels, scale, mirrored) for scale, mirrored in VIEWS])

        return self._each(images, "disagreement", score)

    def features(self, images: Sequence[int]) -> np.ndarray:
        """The backbone's coarsest feature map, averaged over each image, (n, C)."""
        return self._each(images, "features", self._pooled)

    @torch.no_grad()
    def _each(self, images: Sequence[int], title: str, score: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Concatenate score(batch) over all batches; score: images (B, 3, H, W) → (B, …)."""
        return np.concatenate([score(pixels).float().cpu().numpy() for pixels in self._batches(images, title)])

    def _batches(self, images: Sequence[int], title: str) -> Iterator[Tensor]:
        runs = list(same_size_runs(self.pack, images, self.inference.batch))
        for run in console.progress(runs, title, unit="batch"):
            yield to_tensor([self.pack.image(i) for i in run], self.device)

    def _view(self, pixels: Tensor, scale: float, mirrored: bool) -> Tensor:
        size = (pixels.shape[2], pixels.shape[3])
        logits = self.predictor.logits(pixels.flip(-1) if mirrored else pixels, scale)
        return upsampling.argmax(logits.flip(-1) if mirrored else logits, size)

    def _pooled(self, pixels: Tensor) -> Tensor:
        size = network_size((pixels.shape[2], pixels.shape[3]), self.inference)
        if size != tuple(pixels.shape[2:]):
            pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        return self.model.features(pixels)[-1].mean((2, 3))


def uncertainty(confidence: Tensor) -> Tensor:
    """confidence (B, H, W) → mean of 1 - confidence (B,)."""
    return 1 - confidence.mean((1, 2))


def disagreement(labels: Sequence[Tensor]) -> Tensor:
    """At least two class maps (B, H, W) → share of pixels that differ, mean over all pairs (B,)."""
    pairs = [(one != other).float().mean((1, 2)) for one, other in combinations(labels, 2)]
    return torch.stack(pairs).mean(0)
