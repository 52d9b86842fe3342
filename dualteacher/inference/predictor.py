"""Prediction on whole images: resizing, sliding windows, scales and flips."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dualteacher.core import upsampling
from dualteacher.core.transfer import send, unit_range
from dualteacher.data.augment import scaled_size
from dualteacher.data.pack import Pack
from dualteacher.inference.windows import Grid, mean_scores
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Inference

Encoder = Callable[[Tensor], list[Tensor]]  # an image → feature maps, as Segmenter.features
TIMED = 4  # shapes of images for which cuDNN may time its algorithms, which takes about a second each


def network_size(size: tuple[int, int], inference: Inference, scale: float = 1.0) -> tuple[int, int]:
    """Input size (H, W) of the network for an image of `size`."""
    height, width = scaled_size(size, inference.resize, scale)
    m = inference.multiple
    return max(m, round(height / m) * m), max(m, round(width / m) * m)


def same_size_runs(pack: Pack, indices: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Split `indices` into runs of consecutive images of one size, at most `batch` each."""
    for _, group in groupby(indices, key=pack.size):
        run = list(group)
        for first in range(0, len(run), batch):
            yield run[first : first + batch]


def to_tensor(images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Levels (H, W, C) of one size → (B, C, H, W) float32 in [0, 1] on the device."""
    return floats(send(torch.from_numpy(np.stack(images)), device))


def floats(images: Tensor) -> Tensor:
    """Levels (B, H, W, C) → (B, C, H, W) float32 in [0, 1]."""
    return unit_range(images.permute(0, 3, 1, 2))


class Predictor:
    """Predicts class maps at the images' own size.

    One view (one scale, no flip) of whole images needs no full-resolution logits (see core/upsampling). Several views
    are averaged as probabilities at full resolution, one image at a time.
    """

    def __init__(
        self, model: Segmenter, inference: Inference, scales: Sequence[float] = (1.0,), flip: bool = False,
        encode: Encoder | None = None,
    ) -> None:  # fmt: skip
        """encode: gives the head its feature maps; by default the model's own `features`."""
        self.model, self.inference, self.scales, self.flip = model, inference, list(scales), flip
        self._pass: Callable[[Tensor], Tensor] = model if encode is None else lambda image: model.head(encode(image))
        self._timed: set[torch.Size] = set()

    @property
    def device(self) -> torch.device:
        return self.model.mean.device

    @property
    def single_pass(self) -> bool:
        """Whether the labels come from one pass over the whole image."""
        return len(self.scales) == 1 and not self.flip and self.inference.mode == "whole"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, bands, H, W) in [0, 1] → classes (B, H, W) int64."""
        if self.single_pass:
            return upsampling.argmax(self.logits(images, self.scales[0]), _size(images))
        return torch.cat([self.probabilities(image[None]).argmax(1) for image in images])

    @torch.no_grad()
    def with_confidence(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Classes (B, H, W) int64 and their probabilities (B, H, W)."""
        if self.single_pass:
            return self.one_scale(images, self.scales[0])
        found = [self.probabilities(image[None]).max(1) for image in images]
        return torch.cat([one.indices for one in found]), torch.cat([one.values for one in found])

    @torch.no_grad()
    def with_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Classes and their probabilities as `with_confidence` gives them, and all probabilities (B, C, H, W)."""
        if not self.single_pass:
            found = torch.cat([self.probabilities(image[None]) for image in images])
            best = found.max(1)
            return best.indices, best.values, found
        logits, size = self.logits(images, self.scales[0]), _size(images)
        return *upsampling.label_and_confidence(logits, size), upsampled(logits, size).softmax(1)

    @torch.no_grad()
    def one_scale(self, images: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """The same at one scale, without flip."""
        return upsampling.label_and_confidence(self.logits(images, scale), _size(images))

    @torch.no_grad()
    def probabilities(self, image: Tensor) -> Tensor:
        """One image (1, bands, H, W) → softmax (1, C, H, W), mean over scales and flips."""
        size = _size(image)
        total = image.new_zeros((1, self.model.num_classes, *size))
        for scale in self.scales:
            for mirrored in (False, True) if self.flip else (False,):
                logits = upsampled(self.logits(image.flip(-1) if mirrored else image, scale), size)
                logits = logits.flip(-1) if mirrored else logits
                total += logits.softmax(1)
        return total / (len(self.scales) * (2 if self.flip else 1))

    @torch.no_grad()
    def logits(self, images: Tensor, scale: float = 1.0) -> Tensor:
        """Logits of the resized images: at the network's stride (mode whole) or at the resized size (mode slide)."""
        size = network_size(_size(images), self.inference, scale)
        if size != _size(images):
            if size[0] < images.shape[2] or size[1] < images.shape[3]:
                images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
            else:  # enlarging needs no antialiasing, which is slow
                images = upsampling.enlarge(images, size)
        if self.inference.mode == "whole":
            with self._algorithms(images.shape):
                return self._pass(images)
        return self._slide(images)

    @contextmanager
    def _algorithms(self, shape: torch.Size) -> Iterator[None]:
        """cuDNN times its algorithms for the first TIMED shapes only: a data set may have hundreds."""
        if len(self._timed) < TIMED:
            self._timed.add(shape)
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = before and shape in self._timed
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before

    def _slide(self, images: Tensor) -> Tensor:
        """Logits (B, C, H, W), averaged where windows overlap."""
        grid = Grid(*_size(images), self.inference.window, self.inference.stride, self.inference.blend)

        def score(rows: Tensor, lefts: Sequence[int]) -> Iterator[Tensor]:
            for left in lefts:
                part = rows[..., left : left + grid.window[1]]
                yield upsampled(self._pass(part), _size(part))

        mean = images.new_empty((len(images), self.model.num_classes, *_size(images)))
        for top, left, scores in mean_scores(grid, lambda top, bottom: images[:, :, top:bottom], score):
            mean[..., top : top + scores.shape[-2], left : left + scores.shape[-1]] = scores
        return mean


def together(networks: Sequence[Segmenter], inference: Inference) -> list[Predictor]:
    """Predictors of networks that all see the same images in the same order.

    If the networks share a frozen backbone, each image goes through it once.
    """
    first = networks[0]
    if first.frozen != ("backbone",) or any(network.backbone is not first.backbone for network in networks):
        return [Predictor(network, inference) for network in networks]
    waiting: list[deque[list[Tensor]]] = [deque() for _ in networks]  # maps that a network has not taken yet

    def encoder(own: deque[list[Tensor]]) -> Encoder:
        def encode(image: Tensor) -> list[Tensor]:
            if not own:
                maps = first.features(image)
                for queue in waiting:
                    queue.append(maps)
            return own.popleft()

        return encode

    return [Predictor(network, inference, encode=encoder(own)) for network, own in zip(networks, waiting, strict=True)]


def upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (B, C, h, w) → (B, C, H, W), bilinear, float32."""
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]
