"""Dual Teacher in one file, in the paper's order: the specification, and program (b) of the benchmark.

Na et al., "Switching Temporary Teachers for Semi-Supervised Semantic Segmentation", NeurIPS 2023. This is the training
step as one would write it from the paper: batched PyTorch, logits and softmax at full resolution, nothing fused.
tests/benchmark checks the fast implementation (core/, methods/) against it. Colour operations come from core/views.py
and random numbers from core/mixing.draw, so that both see the same images.

Images are (B, 3, H, W) floats in [0, 1], labels (B, H, W) int64 with 255 for "ignore", confidences (B, H, W), logits
(B, C, h, w) at a quarter of the image's side.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualteacher.core import views
from dualteacher.core.labels import IGNORE
from dualteacher.core.mixing import Draws
from dualteacher.data.loader import StepBatch
from dualteacher.settings import DualTeacher, Mixing

MIXES = ("cutmix", "classmix")


class View(NamedTuple):
    """Unlabelled images with the active teacher's pseudo-labels and confidences."""

    image: Tensor
    label: Tensor
    confidence: Tensor


# --- Data: a labelled batch, and the weak view of an unlabelled one


def labelled_batch(batch: StepBatch) -> tuple[Tensor, Tensor]:
    """Images x and labels y, already scaled, cropped and flipped by the loader."""
    return views.jitter(batch.labelled / 255, batch.labelled_factors), batch.label.long()


def weak_view(batch: StepBatch) -> Tensor:
    """The unlabelled images u, augmented like the labelled ones."""
    return views.jitter(batch.unlabelled / 255, batch.unlabelled_factors)


# --- Section 3.1: pseudo-labels from the active one of two temporary teachers


def active(epoch: int) -> int:
    """Index of the active teacher, which alternates by epoch, as does the mix: CutMix if even, ClassMix if odd."""
    return epoch % 2


@torch.no_grad()
def pseudo_label(teacher: nn.Module, image: Tensor, inside: Tensor) -> View:
    """p = softmax(T(u)): label argmax p, confidence max p. Padding (`inside` False) is ignored."""
    probability = upsample(teacher(image), image.shape[2:]).softmax(1)
    confidence, label = probability.max(1)
    return View(image, label.where(inside, IGNORE), confidence.where(inside, 0.0))


def upsample(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear upsampling to the labels' size: (B, C, H, W)."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


# --- Section 3.2: a strong augmentation for each teacher


def cutmix(weak: View, draws: Draws, mixing: Mixing) -> View:
    """Paste a box from the partner image over image, label and confidence; then jitter, blur and flip.

    One λ ~ Beta(4, 4) per batch. The box's sides are the image's times √(1 - λ), its centre is uniform in
    [side/8, side) along each axis, and it is clipped to the image. Partners are a random permutation.
    """
    height, width = weak.label.shape[1:]
    row = torch.arange(height, device=weak.image.device)[:, None]
    column = torch.arange(width, device=weak.image.device)
    top, bottom, left, right = draws.box.T[:, :, None, None]
    in_box = (top <= row) & (row < bottom) & (left <= column) & (column < right)
    mixed = paste(weak, ~in_box, draws.partner)
    image = views.jitter(mixed.image, draws.mix_jitter, draws.order)
    image = views.blur(image, draws.sigma, mixing.blur_sigma[1])
    return View(*(views.flip(part, draws.flipped) for part in (image, mixed.label, mixed.confidence)))


def classmix(strong: View, draws: Draws) -> View:
    """Paste half of each image's classes, rounded down, onto the partner image.

    `draws.rank` (B, C) is a random order of the classes. Each mixed pixel comes from one image, so mixing labels and
    confidences is equivalent to mixing the softmax.
    """
    images, classes = draws.rank.shape
    index = strong.label.where(strong.label != IGNORE, classes).flatten(1)  # (B, HW); ignored pixels are never pasted
    present = index.new_zeros(images, classes + 1).scatter(1, index, 1)[:, :classes]
    half = present.sum(1, keepdim=True) // 2
    order = draws.rank.where(present > 0, -1).argsort(1, descending=True)
    first = torch.arange(classes, device=order.device) < half
    chosen = torch.zeros_like(index[:, :1], dtype=torch.bool).repeat(1, classes + 1).scatter(1, order, first)
    return paste(strong, chosen.gather(1, index).view_as(strong.label), draws.partner)


def paste(view: View, own: Tensor, partner: Tensor) -> View:
    """Each image's own pixels where `own` (B, H, W) is True, its partner's elsewhere."""
    return View(
        view.image.where(own[:, None], view.image[partner]),
        view.label.where(own, view.label[partner]),
        view.confidence.where(own, view.confidence[partner]),
    )


def strong_view(weak: View, draws: Draws) -> View:
    """Strong colour jitter and random grayscale. The geometry is unchanged, so labels and confidences still apply."""
    image = views.jitter(weak.image, draws.strong_jitter, draws.order)
    return weak._replace(image=views.grayscale(image, draws.gray))


# --- Section 3.3: the losses; the student uses drop path and dropout, the teachers do not


def supervised_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross entropy, mean over the labelled pixels."""
    return F.cross_entropy(upsample(logits, label.shape[1:]), label, ignore_index=IGNORE)


def mix_loss(logits: Tensor, mixed: View, mix: str, threshold: float) -> Tensor:
    """CutMix: mean of w_i · CE over the pixels with CE > 0, where w_i is image i's share of confident pixels.

    ClassMix: mean of w · CE over all pixels, where w is the share of confident pixels in the batch.
    """
    entropy = cross_entropy(logits, mixed.label)
    confident = (mixed.confidence >= threshold).float()
    if mix == "cutmix":
        return (confident.mean((1, 2), keepdim=True) * entropy).sum() / (entropy > 0).sum().clamp(min=1)
    return (confident.mean() * entropy).mean()


def consistency_loss(logits: Tensor, strong: View, threshold: float) -> Tensor:
    """Implicit consistency: Σ CE · [confidence ≥ threshold] / number of valid pixels."""
    entropy = cross_entropy(logits, strong.label)
    return (entropy * (strong.confidence >= threshold)).sum() / (strong.label != IGNORE).sum().clamp(min=1)


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Cross entropy per pixel, (B, H, W); 0 for ignored pixels."""
    return F.cross_entropy(upsample(logits, label.shape[1:]), label, ignore_index=IGNORE, reduction="none")


def losses(
    student: nn.Module,
    teacher: nn.Module,
    batch: StepBatch,
    draws: Draws,
    mix: str,
    options: DualTeacher,
    mixing: Mixing,
) -> dict[str, Tensor]:
    """Total loss = supervised + mix + 0.2 · consistency, and its parts; one pass of teacher and student each."""
    image, label = labelled_batch(batch)
    weak = pseudo_label(teacher, weak_view(batch), batch.inside)
    strong = strong_view(weak, draws)
    mixed = cutmix(weak, draws, mixing) if mix == "cutmix" else classmix(strong, draws)

    sizes = [len(image), len(mixed.image), len(strong.image)]
    on_labelled, on_mixed, on_strong = student(torch.cat([image, mixed.image, strong.image])).split(sizes)
    parts = {
        "loss_supervised": supervised_loss(on_labelled, label),
        "loss_mix": mix_loss(on_mixed, mixed, mix, options.threshold),
        "loss_consistency": consistency_loss(on_strong, strong, options.threshold),
        "kept": (weak.confidence >= options.threshold).float().mean(),
    }
    weighted = options.unlabelled_weight * parts["loss_mix"] + options.consistency_weight * parts["loss_consistency"]
    return {"loss": parts["loss_supervised"] + weighted} | parts


# --- The step: optimiser update, then EMA update of the active teacher (section 3.1)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, step_in_epoch: int, maximum: float) -> None:
    """T ← a T + (1 - a) S with a = min(1 - 1/(i + 1), maximum). At the epoch's first step, i = 0: T becomes S."""
    keep = min(1 - 1 / (step_in_epoch + 1), maximum)
    for old, new in zip(teacher.state_dict().values(), student.state_dict().values(), strict=True):
        old.copy_(keep * old + (1 - keep) * new if old.is_floating_point() else new)


class Training:
    """Training state: a student, and two teachers that start as copies of it."""

    def __init__(
        self, student: nn.Module, optimizer: torch.optim.Optimizer, options: DualTeacher, mixing: Mixing
    ) -> None:
        self.student, self.optimizer, self.options, self.mixing = student, optimizer, options, mixing
        self.teachers = [copy.deepcopy(student).eval().requires_grad_(False) for _ in range(2)]

    def step(self, batch: StepBatch, draws: Draws, epoch: int, step_in_epoch: int) -> dict[str, Tensor]:
        """One optimiser step; returns the losses. Only the active teacher labels and is updated."""
        teacher, mix = self.teachers[active(epoch)], MIXES[active(epoch)]
        parts = losses(self.student, teacher, batch, draws, mix, self.options, self.mixing)
        self.optimizer.zero_grad()
        parts["loss"].backward()
        self.optimizer.step()
        follow(teacher, self.student, step_in_epoch, self.options.ema_decay)
        return {name: value.detach() for name, value in parts.items()}
