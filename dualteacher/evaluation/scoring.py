"""Score a network on a pack of images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dualteacher.core.labels import IGNORE
from dualteacher.core.transfer import send
from dualteacher.data.pack import Pack
from dualteacher.evaluation.confusion import ConfusionMatrix
from dualteacher.inference.predictor import Predictor, floats, same_size_runs
from dualteacher.machine.distributed import World, reduce_sum
from dualteacher.system import console, parallel

BATCHES = 2  # decoded at once, for a GPU


def score(
    predictor: Predictor, pack: Pack, device: torch.device, batch: int, world: World | None = None, show: bool = False,
    *, images: Sequence[int] | None = None, per_image: PerImage | None = None,
) -> ConfusionMatrix:  # fmt: skip
    """Confusion matrix over the pack's images that have masks.

    images: only these indices of the pack. per_image: also collects scores per image. The processes of a run split
    the images, and each returns the full matrix.
    """
    world = world or World()
    matrix = ConfusionMatrix(pack.num_classes, device=device)
    with_mask = world.every_nth([i for i in (range(len(pack)) if images is None else images) if pack.has_mask(i)])
    runs = list(same_size_runs(pack, with_mask, batch))
    on_cpu, pin = device.type == "cpu", device.type == "cuda"
    jobs = (partial(decode, pack, run, torch.get_num_threads() if on_cpu else parallel.cores(), pin) for run in runs)
    # on a CPU, decoding in parallel with the network would only compete for its cores
    decoded = (job() for job in jobs) if on_cpu else parallel.ordered(jobs, workers=BATCHES)
    batches = console.progress(decoded, "evaluate", total=len(runs), unit="batch") if show else decoded
    for run, (pixels, masks) in zip(runs, batches, strict=True):
        prediction, target = predictor(floats(send(pixels, device))), send(masks, device)
        matrix.update(target, prediction)
        if per_image is not None:
            per_image.update(run, target, prediction)
    matrix.merge(lambda counts: reduce_sum(counts, world))
    if per_image is not None:
        per_image.values = reduce_sum(per_image.values, world)
    return matrix


def decode(pack: Pack, run: Sequence[int], threads: int, pin: bool = False) -> tuple[Tensor, Tensor]:
    """A run's images (B, H, W, 3) and masks (B, H, W), decoded with `threads` threads; pin: into pinned memory."""
    read = (partial(_image_and_mask, pack, i) for i in run)
    images, masks = (torch.from_numpy(np.stack(part)) for part in zip(*parallel.ordered(read, threads), strict=True))
    return (images.pin_memory(), masks.pin_memory()) if pin else (images, masks)


def _image_and_mask(pack: Pack, i: int) -> tuple[np.ndarray, np.ndarray]:
    mask = pack.mask(i)
    assert mask is not None  # score() selects images with masks
    return pack.image(i), mask


class PerImage:
    """Scores per image. `values` (images, 3) float64: mIoU, pixel accuracy, 1 if the image has truth."""

    def __init__(self, images: int, num_classes: int, device: torch.device) -> None:
        self.num_classes = num_classes
        self.values = torch.zeros((images, 3), dtype=torch.float64, device=device)

    def update(self, indices: Sequence[int], target: Tensor, prediction: Tensor) -> None:
        """Add images `indices` of the pack: target and prediction (B, H, W)."""
        miou, accuracy, known = image_scores(target, prediction, self.num_classes).unbind(1)
        rows = torch.stack([miou, accuracy, torch.ones_like(miou)], 1) * known[:, None]
        self.values[send(torch.tensor(indices), self.values.device)] = rows

    def scores(self) -> np.ndarray:
        """(images, 2): mIoU and pixel accuracy; NaN for images without truth."""
        values = self.values.cpu().numpy()
        return np.where(values[:, 2:] > 0, values[:, :2], np.nan)


def image_scores(target: Tensor, prediction: Tensor, num_classes: int, ignore_index: int = IGNORE) -> Tensor:
    """Per image: mIoU over the classes in its truth, pixel accuracy, and 1 if it has any truth; (B, 3) float64.

    target, prediction: (B, H, W) class indices.
    """
    c, count = num_classes, len(target)
    target, prediction = target.flatten(1).long(), prediction.flatten(1).long()
    place = torch.arange(count, device=target.device)[:, None] * c * c + target.clamp(max=c - 1) * c + prediction
    known = (target != ignore_index).double()
    flat = torch.zeros(count * c * c, dtype=torch.float64, device=target.device)
    counts = flat.scatter_add_(0, place.flatten(), known.flatten()).view(count, c, c)
    hit, truth = counts.diagonal(dim1=1, dim2=2), counts.sum(2)
    iou = hit / (truth + counts.sum(1) - hit).clamp(min=1)
    shown, pixels = truth > 0, truth.sum(1)
    miou = (iou * shown).sum(1) / shown.sum(1).clamp(min=1)
    return torch.stack([miou, hit.sum(1) / pixels.clamp(min=1), (pixels > 0).double()], 1)
