"""The yardstick: the same step, written down from the method's description in the straightforward way.

Two teacher passes and two student passes; logits and softmax at full resolution; every image is jittered,
mixed, blurred and flipped by itself, as a PIL image on the CPU; an average over the parameters one by one. The
network is written as its papers write it. It computes what `programs.Ours` computes (tests/benchmark holds the
two together), from the same draws.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from PIL import Image
from timm.models.pvt_v2 import MlpWithDepthwiseConv
from torch import Tensor, nn

from dualteacher.benchmark.cases import Case
from dualteacher.benchmark.programs import clock, networks
from dualteacher.core import ema
from dualteacher.core.losses import IGNORE
from dualteacher.core.mixing import Draws
from dualteacher.data.loader import Batch
from dualteacher.methods.base import Clock
from dualteacher.models.dense import restore_linear
from dualteacher.models.heads import SegFormerHead
from dualteacher.models.mix_transformer import MixTransformer
from dualteacher.models.segmenter import Segmenter

JITTER = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
IDENTITY = (1.0, 1.0, 1.0, 0.0)


class PlainNetwork(nn.Module):
    """A copy of a SegFormer: softmax(Q Kᵀ) V with the matrix written out; the head upsamples, concatenates, fuses."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.own = copy.deepcopy(segmenter).to(memory_format=torch.contiguous_format)
        restore_linear(self.own)
        for module in self.own.modules():
            if isinstance(module, MlpWithDepthwiseConv):
                module.__class__ = MlpWithDepthwiseConv
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) in [0, 1] → logits at a quarter of its side."""
        own = self.own
        return self.head(self.levels((image - own.mean) / own.std))

    def levels(self, image: Tensor) -> list[Tensor]:
        """The backbone's maps, finest first."""
        backbone = self.own.backbone
        if not isinstance(backbone, MixTransformer):
            maps = backbone(image)
            return [maps[level] for level in self.own.levels]
        levels = [backbone.patch_embed(image)]
        for stage in backbone.stages:
            levels.append(stage(levels[-1]))
        return levels[1:]

    def head(self, levels: list[Tensor]) -> Tensor:
        """SegFormer's head, layer by layer."""
        head, size = self.own.head, levels[0].shape[2:]
        assert isinstance(head, SegFormerHead)
        wide = []
        for level, linear in zip(levels, head.linear, strict=True):
            mapped = linear(level.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, level.shape[2:])
            wide.append(F.interpolate(mapped, size, mode="bilinear", align_corners=False))
        fused = head.fuse(torch.cat(wide[::-1], 1))
        return head.classifier(head.dropout(F.relu(head.norm(fused))))


class Views(NamedTuple):
    """Unlabelled images (U, 3, S, S) with labels and confidences (U, S, S)."""

    image: Tensor
    label: Tensor
    confidence: Tensor


class Plain:
    """The plain step; with `same_network` around the network that `programs.Ours` trains."""

    def __init__(self, case: Case, device: torch.device, same_network: bool = False) -> None:
        self.settings, student, self.method = networks(case, device)
        make = (lambda network: network) if same_network else PlainNetwork
        self.device, self.batch = device, case.batch()
        self.student: nn.Module = make(student)
        self.teachers: list[nn.Module] = [make(teacher) for teacher in self.method.teachers]
        optimizer = self.settings.optimizer
        rates = (self.settings.train.learning_rate, optimizer.head_multiplier, optimizer.weight_decay)
        groups = (student if same_network else self.student.own).parameter_groups(*rates)
        self.optimizer = torch.optim.AdamW(groups, betas=(optimizer.betas[0], optimizer.betas[1]))

    def __call__(self, step: int) -> dict[str, Tensor]:
        now = clock(step)
        draws = self.method.draw(now, self.batch, 0, self.device)
        parts = self.losses(self.batch, draws, now)
        self.optimizer.zero_grad()
        parts["loss"].backward()
        self.optimizer.step()
        keep = ema.decay(now.step_in_epoch, self.method.own.ema_decay)
        teacher = self.teachers[now.epoch % 2]
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), self.student.parameters(), strict=True):
                old.copy_(keep * old + (1 - keep) * new)
        return {name: value.detach() for name, value in parts.items()}

    def losses(self, batch: Batch, draws: Draws, now: Clock) -> dict[str, Tensor]:
        """The four losses, by the names of the history."""
        own, teacher = self.method.own, self.teachers[now.epoch % 2]
        size = tuple(batch.label.shape[1:])
        labelled, unlabelled = (
            [jitter(TF.to_pil_image(image), row.tolist()) for image, row in zip(images, factors, strict=True)]
            for images, factors in (
                (batch.labelled, batch.labelled_factors),
                (batch.unlabelled, batch.unlabelled_factors),
            )
        )
        weak = self.stack(unlabelled)
        strong = [strong_view(image, draws, i) for i, image in enumerate(unlabelled)]

        # --- the mix, from the first teacher pass
        with torch.no_grad():
            softmax = upsample(teacher(weak), size).softmax(1)
        if self.method.mix(now) == "cutmix":
            mixed = self.cutmix(unlabelled, softmax, draws)
        else:
            mixed = self.classmix(strong, softmax, draws)

        # --- supervised: the first student pass
        target = batch.label.long().to(self.device)
        logits = upsample(self.student(self.stack(labelled)), size)
        supervised = F.cross_entropy(logits, target, ignore_index=IGNORE)

        # --- mix and implicit consistency: the second teacher pass, the second student pass
        with torch.no_grad():
            confidence, label = upsample(teacher(weak), size).softmax(1).max(1)
        views = torch.cat([mixed.image, self.stack(strong)])
        logits = upsample(self.student(views), size)
        entropy, consistent = F.cross_entropy(logits, torch.cat([mixed.label, label]), reduction="none").chunk(2)
        sure = (mixed.confidence >= own.threshold).float()
        if self.method.mix(now) == "cutmix":
            mix = (sure.mean((1, 2), keepdim=True) * entropy)[entropy > 0].mean()
        else:
            mix = (sure.mean() * entropy).mean()
        consistency = (consistent * (confidence >= own.threshold)).mean()

        total = supervised + own.unlabelled_weight * mix + own.consistency_weight * consistency
        kept = (confidence >= own.threshold).float().mean()
        named = {"loss_supervised": supervised, "loss_mix": mix, "loss_consistency": consistency}
        return {"loss": total, **named, "kept": kept}

    def cutmix(self, images: list[Image.Image], softmax: Tensor, draws: Draws) -> Views:
        """Boxes from the partner, pasted image by image; then jitter, blur and flip."""
        confidence, label = softmax.cpu().max(1)
        sigma_largest = self.settings.mixing.blur_sigma[1]
        done = []
        for i, image in enumerate(images):
            other = int(draws.partner[i])
            top, bottom, left, right = draws.box[i].tolist()
            trio = [image.copy(), Image.fromarray(label[i].numpy().astype(np.uint8)), _floats(confidence[i])]
            partner = [
                images[other],
                Image.fromarray(label[other].numpy().astype(np.uint8)),
                _floats(confidence[other]),
            ]
            for mine, theirs in zip(trio, partner, strict=True):
                mine.paste(theirs.crop((left, top, right, bottom)), (left, top))
            trio[0] = blur(
                jitter(trio[0], draws.mix_jitter[i].tolist(), draws.order), float(draws.sigma[i]), sigma_largest
            )
            done.append([TF.hflip(part) for part in trio] if draws.flipped[i] else trio)
        return Views(
            self.stack([trio[0] for trio in done]),
            torch.from_numpy(np.stack([np.asarray(trio[1]) for trio in done])).long().to(self.device),
            torch.from_numpy(np.stack([np.asarray(trio[2]) for trio in done])).to(self.device),
        )

    def classmix(self, images: list[Image.Image], softmax: Tensor, draws: Draws) -> Views:
        """Half of an image's classes onto its partner; the softmax is mixed alike, and read off again."""
        label = softmax.argmax(1).cpu().numpy()
        mixed, probability = [], []
        for i, image in enumerate(images):
            other = int(draws.partner[i])
            present = np.unique(label[i])
            order = sorted(present.tolist(), key=lambda c: -float(draws.rank[i, c]))
            mask = np.isin(label[i], order[: len(order) // 2])
            mixed.append(Image.composite(image, images[other], Image.fromarray(mask)))
            probability.append(torch.where(torch.from_numpy(mask).to(self.device), softmax[i], softmax[other]))
        confidence, found = torch.stack(probability).max(1)
        return Views(self.stack(mixed), found, confidence)

    def stack(self, images: list[Image.Image]) -> Tensor:
        """PIL images → (B, 3, H, W) in [0, 1] on the device."""
        return torch.stack([TF.to_tensor(image) for image in images]).to(self.device)


def upsample(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """To the labels' size, as a whole."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def jitter(image: Image.Image, factors: list[float], order: tuple[int, ...] = (0, 1, 2, 3)) -> Image.Image:
    """Brightness, contrast, saturation and hue of one image; nothing where all are the identity."""
    if tuple(factors) == IDENTITY:
        return image
    for index in order:
        image = JITTER[index](image, factors[index])
    return image


def strong_view(image: Image.Image, draws: Draws, i: int) -> Image.Image:
    """The view of implicit consistency."""
    image = jitter(image, draws.strong_jitter[i].tolist(), draws.order)
    return image.convert("L").convert("RGB") if draws.gray[i] else image


def blur(image: Image.Image, sigma: float, largest: float) -> Image.Image:
    """Gaussian blur; σ = 0 leaves the image sharp."""
    side = 2 * int(np.ceil(3 * largest)) + 1
    return TF.gaussian_blur(image, [side, side], [sigma, sigma]) if sigma > 0 else image


def _floats(values: Tensor) -> Image.Image:
    return Image.fromarray(values.numpy().astype(np.float32), mode="F")
