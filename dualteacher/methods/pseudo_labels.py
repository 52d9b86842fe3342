"""Pseudo-labels for weak views, by a teacher or by the student itself."""

from __future__ import annotations

import torch

from dualteacher.core import losses
from dualteacher.core.balance import PseudoLabelBalance
from dualteacher.core.mixing import PseudoLabelled
from dualteacher.data.loader import Images
from dualteacher.methods.student_pass import Features
from dualteacher.models.segmenter import Segmenter


@torch.no_grad()
def label(
    network: Segmenter, images: Images, balance: PseudoLabelBalance | None = None, features: Features | None = None
) -> PseudoLabelled:
    """The network's labels and confidences for the weak views; padding gets IGNORE and confidence 0.

    balance: aligns the logits, and scales the confidences by the per-class thresholds. features: shared in this step.
    """
    size = (images.unlabelled.shape[2], images.unlabelled.shape[3])
    logits = network(images.unlabelled) if features is None else network.head(features([images.unlabelled]))
    if balance is not None:
        balance.observe(logits, images.inside)
        logits = balance.align(logits)
    found, confidence = losses.pseudo_label(logits, size)
    if balance is not None:
        confidence = balance.scale(found, confidence)
    found = torch.where(images.inside, found, losses.IGNORE)
    return PseudoLabelled(images.unlabelled, found, torch.where(images.inside, confidence, 0.0))


def self_label(
    network: Segmenter, images: Images, balance: PseudoLabelBalance | None = None, features: Features | None = None
) -> PseudoLabelled:
    """`label` by a network that is being trained: switches to eval mode (no drop path, no dropout) and back."""
    network.eval()
    found = label(network, images, balance, features)
    network.train()
    return found
