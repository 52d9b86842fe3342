"""CutMix, ClassMix, copy-paste and the strong view, on batches (paper, section 3.2; settings of the released code).

A mix is a paste mask (B, H, W), True where an image keeps its own pixel, and a permutation that gives each image's
partner. The same mask mixes image, pseudo-label and confidence. (The released code does not mix CutMix's confidence,
so it weights pixels by another image's confidence.)

All random numbers are drawn on the host as a function of (seed, step, image position); see `Draws`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualteacher.core import seeds, views
from dualteacher.core.labels import IGNORE
from dualteacher.core.transfer import send
from dualteacher.settings import Mixing


class PseudoLabelled(NamedTuple):
    """Images (B, 3, H, W) with pseudo-labels (B, H, W) int64 and confidences (B, H, W)."""

    image: Tensor
    label: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Draws:
    """Random numbers for one strong view of a batch; tensors have one row per image."""

    partner: Tensor  # (B,) index of the image to mix with
    box: Tensor  # (B, 4) CutMix box: top, bottom, left, right, pixels
    rank: Tensor  # (B, C) random scores that select ClassMix's classes
    mix_jitter: Tensor  # (B, 4) factors for views.jitter
    sigma: Tensor  # (B,) of the blur, pixels; 0 for none
    flipped: Tensor  # (B,) bool
    strong_jitter: Tensor  # (B, 4) factors for views.jitter
    gray: Tensor  # (B,) bool
    order: tuple[int, ...] | Tensor  # of the four jitter operations, for the whole batch; a tensor on a GPU

    def to(self, device: torch.device) -> Draws:
        """Copy to `device`. To a GPU from pinned memory, so the copies overlap with the teacher's pass."""
        moved = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "order" and device.type == "cuda":
                value = torch.tensor(value, dtype=torch.int32)
            if isinstance(value, Tensor):
                value = send(value, device)
            moved[field.name] = value
        return Draws(**moved)


def draw(
    mixing: Mixing,
    seed: int,
    step: int,
    batch: int,
    classes: int,
    size: tuple[int, int],
    *,
    first: int = 0,
    groups: int = 1,
    view: int = 0,
) -> Draws:
    """Draws for images `first` … `first + batch - 1` of a step's global batch, in `groups` equal groups.

    Partners come from the same group, and each group has one CutMix ratio, so a group's draws do not depend on which
    process or shard it is in. size: (H, W) of the crops. view: index of the strong view; view 0 is the same for all
    methods.
    """
    place: tuple[int | str, ...] = (step,) if view == 0 else (step, f"view {view}")
    order = tuple(int(i) for i in seeds.generator(seed, "order of jitter", *place).permutation(4))
    each = batch // groups
    partner, ratio = [], []
    for start in range(0, batch, each):
        rng = seeds.generator(seed, "mixing", *place, first + start)
        ratio += [rng.beta(mixing.cutmix_beta, mixing.cutmix_beta)] * each
        partner.append(start + rng.permutation(each))
    rngs = (seeds.generator(seed, "strong", *place, first + i) for i in range(batch))
    columns = [np.array(column) for column in zip(*(_draw_image(mixing, rng, classes) for rng in rngs), strict=True)]
    centre, rank, mix_jitter, sigma, flipped, strong_jitter, is_gray = columns
    return Draws(
        partner=torch.from_numpy(np.concatenate(partner)),
        box=torch.from_numpy(cutmix_boxes(np.array(ratio), centre, size)),
        rank=torch.from_numpy(rank).float(),
        mix_jitter=torch.from_numpy(mix_jitter).float(),
        sigma=torch.from_numpy(sigma).float(),
        flipped=torch.from_numpy(flipped),
        strong_jitter=torch.from_numpy(strong_jitter).float(),
        gray=torch.from_numpy(is_gray),
        order=order,
    )


def rarity(pixels: Sequence[int]) -> Tensor:
    """Exponents (C,) for scores u in [0, 1): those of u ** exponent favour rare classes with weight 1/√share.

    A class's exponent is the inverse of its weight (weighted sampling without replacement, Efraimidis & Spirakis 2006).
    pixels: labelled pixels per class.
    """
    count = torch.tensor(pixels, dtype=torch.float32)
    return (count / count.max().clamp(min=1)).sqrt()


def draw_copy_paste(
    mixing: Mixing,
    seed: int,
    step: int,
    batch: int,
    rarity: Tensor,
    size: tuple[int, int],
    labelled: int,
    *,
    first: int = 0,
    groups: int = 1,
) -> Draws:
    """Draws for `copy_paste`: as `draw`, but `partner` is the index of a labelled image of the same group.

    labelled: number of labelled images. A group uses each of them once before any twice. rarity: see `rarity`.
    """
    own = draw(mixing, seed, step, batch, len(rarity), size, first=first, groups=groups, view=1)
    known, each = labelled // groups, batch // groups
    partner = []
    for group in range(groups):
        rng = seeds.generator(seed, "copy-paste", step, first + group * each)
        partner.append(group * known + np.resize(rng.permutation(known), each))
    return replace(own, partner=torch.from_numpy(np.concatenate(partner)), rank=own.rank**rarity)


def _draw_image(mixing: Mixing, rng: np.random.Generator, classes: int) -> tuple[Any, ...]:
    centre = rng.uniform(0, 1, 2)
    rank = rng.random(classes)
    mix_jitter = views.draw_jitter(rng, mixing.cutmix_jitter)
    sigma = rng.uniform(mixing.blur_sigma[0], mixing.blur_sigma[1]) if rng.random() < mixing.blur else 0.0
    flipped = bool(rng.random() < mixing.flip)
    strong_jitter = views.draw_jitter(rng, mixing.strong_jitter)
    return centre, rank, mix_jitter, sigma, flipped, strong_jitter, bool(rng.random() < mixing.grayscale)


def cutmix_boxes(ratio: np.ndarray | float, centre: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes (B, 4): top, bottom, left, right in pixels, clipped to the image of `size` (H, W).

    Sides are the image's times sqrt(1 - ratio); ratio is (B,) or a number. `centre` (B, 2) in [0, 1) is mapped to
    [side/8, side) along each axis.
    """
    edges = []
    for axis, side in enumerate(size):
        half = (side * np.sqrt(1 - np.asarray(ratio))).astype(np.int64) // 2
        middle = (side / 8 + centre[:, axis] * (side - side / 8)).astype(np.int64)
        edges += [np.clip(middle - half, 0, side), np.clip(middle + half, 0, side)]
    return np.stack(edges, 1)


def box_mask(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Paste mask (B, H, W): True outside the boxes (B, 4), where an image keeps its own pixels."""
    row = torch.arange(size[0], device=box.device)[None, :, None]
    column = torch.arange(size[1], device=box.device)[None, None, :]
    top, bottom, left, right = (edge[:, None, None] for edge in box.unbind(1))
    return ~((row >= top) & (row < bottom) & (column >= left) & (column < right))


def class_mask(label: Tensor, rank: Tensor) -> Tensor:
    """Paste mask (B, H, W): True on a random half (rounded down) of the classes in each image's label.

    label (B, H, W); rank (B, C): random scores. Selects the present classes with the highest scores. False on IGNORE.
    """
    batch, classes = rank.shape
    index = torch.where(label == IGNORE, classes, label).flatten(1)
    present = torch.zeros((batch, classes + 1), dtype=torch.bool, device=label.device)
    present = present.scatter(1, index, True)[:, :classes]
    score = torch.where(present, rank, -1.0)
    place = score.argsort(1, descending=True).argsort(1)
    chosen = present & (place < present.sum(1, keepdim=True) // 2)
    chosen = torch.cat([chosen, chosen.new_zeros(batch, 1)], 1)  # ignored pixels are never pasted
    return chosen.gather(1, index).view_as(label)


def paste(own: PseudoLabelled, mask: Tensor, partner: Tensor) -> PseudoLabelled:
    """Own pixels where `mask` (B, H, W) is True, the partner's elsewhere."""
    return _choose(mask, own, PseudoLabelled(*(tensor[partner] for tensor in own)))


def _choose(mask: Tensor, one: PseudoLabelled, other: PseudoLabelled) -> PseudoLabelled:
    """Pixels of `one` where `mask` (B, H, W) is True, of `other` elsewhere."""
    return PseudoLabelled(
        torch.where(mask.unsqueeze(1), one.image, other.image),
        torch.where(mask, one.label, other.label),
        torch.where(mask, one.confidence, other.confidence),
    )


def cutmix(weak: PseudoLabelled, draws: Draws, mixing: Mixing) -> PseudoLabelled:
    """CutMix of the weak views, then colour jitter, blur and horizontal flip."""
    size = (weak.label.shape[1], weak.label.shape[2])
    image, label, confidence = paste(weak, box_mask(draws.box, size), draws.partner)
    image = views.jitter(image, draws.mix_jitter, draws.order)
    image = views.blur(image, draws.sigma, mixing.blur_sigma[1])
    return PseudoLabelled(*(views.flip(tensor, draws.flipped) for tensor in (image, label, confidence)))


def classmix(strong: PseudoLabelled, draws: Draws) -> PseudoLabelled:
    """ClassMix of the strong views: paste half of an image's classes onto its partner.

    Every pixel comes from one image, so mixing labels and confidences equals mixing the softmax (B, C, H, W) before
    argmax and maximum, without that tensor.
    """
    return paste(strong, class_mask(strong.label, draws.rank), draws.partner)


def copy_paste(strong: PseudoLabelled, labelled: Tensor, label: Tensor, draws: Draws) -> PseudoLabelled:
    """ClassMix from labelled images, as in DACS (Tranheden et al., WACV 2021), rare classes preferred as in AEL.

    Pastes half (rounded down) of the classes of a labelled image onto each image of the strong views, with their true
    labels and confidence 1. Draws the classes with probability ∝ 1/√share, one after the other (AEL: Hu et al., NeurIPS
    2021). labelled (L, 3, H, W) gets a strong view first; label (L, H, W). draws: of `draw_copy_paste`.
    """
    image, label = strong_view(labelled[draws.partner], draws), label[draws.partner]
    pasted = PseudoLabelled(image, label, torch.ones_like(strong.confidence))
    return _choose(class_mask(label, draws.rank), pasted, strong)


def strong_view(image: Tensor, draws: Draws) -> Tensor:
    """The view for implicit consistency: strong colour jitter and random grayscale, no geometric change."""
    return views.grayscale(views.jitter(image, draws.strong_jitter, draws.order), draws.gray)


def strong_cutmix(weak: PseudoLabelled, draws: Draws, mixing: Mixing) -> PseudoLabelled:
    """The strong view of FixMatch and UniMatch: jitter, grayscale and blur, then CutMix."""
    image = views.blur(strong_view(weak.image, draws), draws.sigma, mixing.blur_sigma[1])
    size = (weak.label.shape[1], weak.label.shape[2])
    return paste(weak._replace(image=image), box_mask(draws.box, size), draws.partner)
