"""Predicting whole images: resizing, sliding windows, scales and flips; memory bounded by one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dualteacher.core import upsampling
from dualteacher.data.augment import scaled_size
from dualteacher.data.pack import Pack
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Inference


def network_size(size: tuple[int, int], inference: Inference, scale: float = 1.0) -> tuple[int, int]:
    """Size (H, W) at which an image of `size` is shown to the network."""
    height, width = scaled_size(size, inference.resize, scale)
    m = inference.multiple
    return max(m, round(height / m) * m), max(m, round(width / m) * m)


def same_size_runs(pack: Pack, indices: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Consecutive images of one size, at most `batch` together."""
    for _, group in groupby(indices, key=pack.size):
        run = list(group)
        for first in range(0, len(run), batch):
            yield run[first : first + batch]


def to_tensor(images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """uint8 (H, W, 3) images of one size → (B, 3, H, W) floats in [0, 1] on the device."""
    stacked = torch.from_numpy(np.stack(images)).to(device, non_blocking=True)
    return stacked.permute(0, 3, 1, 2).float().div_(255)


class Predictor:
    """Predicts class maps at the images' own size.

    One scale without flip never makes full-resolution logits (see upsampling.argmax); several views are
    averaged as probabilities at full resolution, one image at a time.
    """

    def __init__(
        self, model: Segmenter, inference: Inference, scales: Sequence[float] = (1.0,), flip: bool = False
    ) -> None:
        self.model, self.inference, self.scales, self.flip = model, inference, list(scales), flip

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [0, 1] → classes (B, H, W) int64."""
        size = (images.shape[2], images.shape[3])
        if len(self.scales) == 1 and not self.flip and self.inference.mode == "whole":
            return upsampling.argmax(self.logits(images, self.scales[0]), size)
        return torch.cat([self.probabilities(image[None]).argmax(1) for image in images])

    @torch.no_grad()
    def sure(self, images: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """At one scale, classes (B, H, W) int64 and the probability (B, H, W) of each."""
        return upsampling.label_and_confidence(self.logits(images, scale), (images.shape[2], images.shape[3]))

    @torch.no_grad()
    def probabilities(self, image: Tensor) -> Tensor:
        """Mean softmax over scales and flips, (1, C, H, W) for one image (1, 3, H, W)."""
        size = (image.shape[2], image.shape[3])
        total = image.new_zeros((1, self.model.num_classes, *size))
        for scale in self.scales:
            for mirrored in (False, True) if self.flip else (False,):
                logits = self.logits(image.flip(-1) if mirrored else image, scale)
                logits = F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
                logits = logits.flip(-1) if mirrored else logits
                total += logits.softmax(1)
        return total / (len(self.scales) * (2 if self.flip else 1))

    @torch.no_grad()
    def logits(self, images: Tensor, scale: float = 1.0) -> Tensor:
        """Logits of the resized images at the network's stride (whole) or at their size (slide)."""
        size = network_size((images.shape[2], images.shape[3]), self.inference, scale)
        if size != tuple(images.shape[2:]):
            if size[0] < images.shape[2] or size[1] < images.shape[3]:
                images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
            else:  # there is nothing to smooth, and asking for it costs time
                images = upsampling.enlarge(images, size)
        if self.inference.mode == "whole":
            return self.model(images)
        return self._slide(images)

    def _slide(self, images: Tensor) -> Tensor:
        """Mean logits over overlapping windows."""
        window, stride = self.inference.window, self.inference.stride
        height, width = images.shape[2], images.shape[3]
        total = images.new_zeros((len(images), self.model.num_classes, height, width))
        count = images.new_zeros((1, 1, height, width))
        for top in window_starts(height, window, stride):
            for left in window_starts(width, window, stride):
                part = images[:, :, top : top + window, left : left + window]
                logits = self.model(part).float()
                logits = F.interpolate(logits, part.shape[2:], mode="bilinear", align_corners=False)
                total[:, :, top : top + window, left : left + window] += logits
                count[:, :, top : top + window, left : left + window] += 1
        return total / count


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows start so that they cover `side`; the last one ends at the border."""
    last = max(0, side - window)
    return sorted({*range(0, last, stride), last})
