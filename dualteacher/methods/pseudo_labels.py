"""Pseudo-labels for weak views, whoever makes them."""

from __future__ import annotations

import torch

from dualteacher.core import losses
from dualteacher.core.mixing import Labelled
from dualteacher.data.loader import Images
from dualteacher.models.segmenter import Segmenter


@torch.no_grad()
def label(network: Segmenter, images: Images) -> Labelled:
    """The network's labels and confidences for the weak views; padding is ignored and has no confidence."""
    size = (images.unlabelled.shape[2], images.unlabelled.shape[3])
    found, confidence = losses.pseudo_label(network(images.unlabelled), size)
    found = torch.where(images.inside, found, losses.IGNORE)
    return Labelled(images.unlabelled, found, torch.where(images.inside, confidence, 0.0))


def self_label(network: Segmenter, images: Images) -> Labelled:
    """The same by a network in training: at full depth, without dropout, then back to train mode."""
    network.eval()
    found = label(network, images)
    network.train()
    return found
