"""Measurements at an epoch's end: teacher against student, and when due: validation, pseudo-labels against held-back
masks.

They test the paper's argument: temporary teachers differ from the student (distance, disagreement) and label
well (coverage, accuracy). The held-back masks are read only here and for calibration, never by the training loader.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dualteacher.core import ema, seeds
from dualteacher.core.labels import IGNORE
from dualteacher.core.transfer import send
from dualteacher.data.pack import Pack
from dualteacher.evaluation.scoring import score
from dualteacher.inference.predictor import Predictor, same_size_runs, to_tensor, together
from dualteacher.machine.distributed import World
from dualteacher.methods.base import Clock, Method
from dualteacher.models.segmenter import Segmenter
from dualteacher.settings import Inference, Settings
from dualteacher.training import history
from dualteacher.training.history import Row


def blank() -> Row:
    """NaN in every column that this module fills."""
    return history.blank("validation", "probe", "distance")


def validator(
    student: Segmenter, val: Pack, settings: Settings, device: torch.device, world: World
) -> Callable[[], Row]:
    """Return a function that scores the student on the validation images."""
    predictor = Predictor(student, settings.inference)

    def validate() -> Row:
        matrix = score(predictor, val, device, settings.inference.batch, world)
        scores = matrix.scores()
        return {
            "val_miou": scores["miou"],
            "val_pixel_accuracy": scores["pixel_accuracy"],
            "val_swallowed": matrix.swallowed(),
            history.CLASS_IOU: scores["class_iou"].tolist(),
        }

    return validate


def selector(
    student: Segmenter, train: Pack, held_out: Sequence[int], settings: Settings, device: torch.device, world: World
) -> Callable[[], Row]:
    """Return a function that scores the student on the held-out labelled images, to select the best epoch."""
    predictor = Predictor(student, settings.inference)

    def select() -> Row:
        if not held_out:
            return {}
        matrix = score(predictor, train, device, settings.inference.batch, world, images=held_out)
        return {"held_out_miou": matrix.scores()["miou"]}

    return select


def probe_images(pack: Pack, unlabelled: Sequence[int], count: int, seed: int) -> list[int]:
    """`count` unlabelled images drawn from `seed`, in the pack's order."""
    drawn = seeds.generator(seed, "probe").permutation(len(unlabelled))[:count]
    return sorted(unlabelled[i] for i in drawn)


@torch.no_grad()
def judge_teachers(
    student: Segmenter, method: Method, clock: Clock, pack: Pack, images: Sequence[int], settings: Settings,
    device: torch.device,
) -> Row:  # fmt: skip
    """Each teacher's distance to the student, and coverage and accuracy of the pseudo-labels on the probe `images`.

    images: may be empty. Three networks predict them, which takes longer than an epoch of few labels.
    """
    labeller, active = method.labeller(student, clock), method.active(clock)
    if labeller is None:
        return {}
    waiting = next((t for i, t in enumerate(method.teachers) if i != active), None) if active is not None else None
    row: Row = {}
    if active is not None:
        row["distance_active"] = float(ema.distance(labeller, student))
    if waiting is not None:
        row["distance_waiting"] = float(ema.distance(waiting, student))
    if not images:
        return row
    training = labeller.training  # a partner's; a teacher is in eval mode, and eval() would undo normalisation by batch
    if training:
        labeller.eval()
    tally = Tally(method.threshold or 0.0, device)
    _add_probe(tally, student, labeller, waiting, pack, images, settings.inference)
    if training:
        labeller.train()
    row |= tally.shares()
    if labeller is student:
        row["disagreement_active"] = math.nan  # would compare the student with itself
    return row


def _add_probe(
    tally: Tally, student: Segmenter, labeller: Segmenter, waiting: Segmenter | None, pack: Pack,
    images: Sequence[int], inference: Inference,
) -> None:  # fmt: skip
    """Predict the probe images with all three networks and count their pixels."""
    networks = [labeller, *([] if student is labeller else [student]), *([] if waiting is None else [waiting])]
    by_labeller, *others = together(networks, inference)
    device = by_labeller.device
    for run in same_size_runs(pack, images, inference.batch):
        pixels = to_tensor([pack.image(i) for i in run], device)
        size = (pixels.shape[2], pixels.shape[3])
        label, confidence = by_labeller.one_scale(pixels)
        labels = [predictor(pixels) for predictor in others]
        other = labels.pop() if waiting is not None else None
        own = labels.pop() if labels else label
        tally.add(label, confidence, own, other, send(held_back_masks(pack, run, size), device))


def held_back_masks(pack: Pack, run: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Masks (B, H, W) uint8 of images that training treats as unlabelled; IGNORE where an image has none."""
    truth = torch.full((len(run), *size), IGNORE, dtype=torch.uint8)
    for place, index in enumerate(run):
        mask = pack.mask(index)
        if mask is not None:
            truth[place] = torch.from_numpy(mask)
    return truth


class Tally:
    """Pixel counts over the probe images, summed on the device."""

    def __init__(self, threshold: float, device: torch.device) -> None:
        self.threshold = threshold
        self.counts = torch.zeros(8, dtype=torch.float64, device=device)
        self.has_waiting = False

    def add(self, label: Tensor, confidence: Tensor, student: Tensor, waiting: Tensor | None, truth: Tensor) -> None:
        """Add class maps (B, H, W): the labeller's and its confidence, the student's, the inactive teacher's, truth."""
        kept, known = confidence >= self.threshold, truth != IGNORE
        right = (label == truth) & known
        self.has_waiting = waiting is not None
        apart = waiting != student if waiting is not None else torch.zeros_like(known)
        pieces = (
            torch.ones_like(known),
            kept,
            known,
            right,
            known & kept,
            right & kept,
            label != student,
            apart,
        )
        self.counts += torch.stack([piece.sum(dtype=torch.float64) for piece in pieces])

    def shares(self) -> Row:
        """The probe's columns of the history; NaN where the denominator is 0."""
        pixels, kept, known, right, kept_known, kept_right, apart, apart_waiting = self.counts.tolist()
        return {
            "probe_coverage": _share(kept, pixels),
            "probe_accuracy": _share(kept_right, kept_known),
            "probe_accuracy_all": _share(right, known),
            "disagreement_active": _share(apart, pixels),
            "disagreement_waiting": _share(apart_waiting, pixels) if self.has_waiting else math.nan,
        }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
