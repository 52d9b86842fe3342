"""The segmentation network: normalisation, backbone, head."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dualteacher import settings
from dualteacher.core import seeds
from dualteacher.data.channels import RGB, Channels
from dualteacher.models import backbones, conversion, heads, tensors
from dualteacher.models.heads.layers import resize


class Segmenter(nn.Module):
    """Image (B, 3, H, W) → logits at the stride of its head: 4 for SegFormer and DeepLabV3+ on a pyramid."""

    fixed_norms = False  # see fix_norms
    stride: float  # of the logits, pixels; need not be whole
    mean: Tensor
    std: Tensor

    def __init__(self, model: settings.Model, num_classes: int, *, drop_path: float, channels: Channels = RGB) -> None:
        super().__init__()
        backbone = backbones.create(model.backbone, model.architecture, drop_path)
        self.settings = model
        self.num_classes = num_classes
        self.channels = channels  # how images are read for it
        self.pretrained: dict[str, Any] = {}  # where the backbone's start came from; see weights.py
        self.levels = backbone.levels
        self.multiple = backbone.multiple
        self.channels_last = backbone.channels_last
        self.backbone = backbone.network
        self.head, self.stride = heads.create(
            model.architecture, backbone.channels, backbone.strides, model.head_width, num_classes, model.dropout
        )
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1))
        # Channels-last weights make the convolutions run channels-last: a step takes 0.55 of the time on a CPU.
        self.to(memory_format=torch.channels_last)

    def features(self, image: Tensor) -> list[Tensor]:
        """Image (B, 3, H, W), RGB in [0, 1] → the feature maps that the head takes, finest first."""
        maps = self.backbone((self.fitted(image) - self.mean) / self.std)
        chosen = [maps[level] for level in self.levels]
        return [level.permute(0, 3, 1, 2) for level in chosen] if self.channels_last else chosen

    def fitted(self, image: Tensor) -> Tensor:
        """The image, enlarged to whole patches if the backbone needs them; the logits still cover all of it."""
        if self.multiple == 1:
            return image
        # Not -(-side // multiple): ONNX divides towards zero. While exporting, a comparison would fix the size.
        sides = [(side + self.multiple - 1) // self.multiple * self.multiple for side in image.shape[-2:]]
        whole = not torch.compiler.is_exporting() and sides == [*image.shape[-2:]]
        return image if whole else resize(image, sides)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W), RGB in [0, 1], any H and W ≥ 32 → logits (B, num_classes, ~H/stride, ~W/stride)."""
        return self.head(self.features(image))

    def train(self, mode: bool = True) -> Segmenter:
        """As in torch, except that fixed norms stay in eval mode."""
        super().train(mode)
        if self.fixed_norms:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.training = False
        return self

    def fix_norms(self, fixed: bool) -> None:
        """Whether the backbone's batch normalisation uses its running statistics in train mode too, and keeps them.

        Its weights and biases still train. The head starts at random, without statistics, so it is not concerned.
        """
        if fixed != self.fixed_norms:
            self.fixed_norms = fixed
            self.train(self.training)

    def parameter_groups(self, learning_rate: float, head_multiplier: float, weight_decay: float) -> list[dict]:
        """Optimiser groups: backbone and head, each with and without weight decay. Omits empty groups.

        Weights and biases of normalisation layers do not decay; other biases do, as in the published settings. The
        head's learning rate is `head_multiplier` times the backbone's. Each group has "name", "params" (in layer
        order), "lr" and "weight_decay".
        """
        groups = []
        for name, part, rate in (
            ("backbone", self.backbone, learning_rate),
            ("head", self.head, learning_rate * head_multiplier),
        ):
            decaying, constant = _by_decay(part)
            groups.append({"name": f"{name}_decay", "params": decaying, "lr": rate, "weight_decay": weight_decay})
            groups.append({"name": f"{name}_no_decay", "params": constant, "lr": rate, "weight_decay": 0.0})
        return [group for group in groups if group["params"]]


def _by_decay(part: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters (outside, inside) normalisation layers, recognised by "norm" in the class name."""
    decaying: list[nn.Parameter] = []
    constant: list[nn.Parameter] = []
    for module in part.modules():
        chosen = constant if "norm" in type(module).__name__.lower() else decaying
        chosen += [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
    return decaying, constant


def build(
    model: settings.Model,
    num_classes: int,
    backbone_weights: Path | None,
    *,
    drop_path: float,
    seed: int | None = None,
    channels: Channels = RGB,
) -> Segmenter:
    """Build the network of params.yaml's `model` section.

    backbone_weights: a file of the download stage; the backbone starts at random if None, or if the file was prepared
    with `weights: none`. The head always starts at random. seed: determines the random start and leaves torch's global
    random state unchanged. UserError if the backbone is unknown or does not fit the head, or if
    the file does not fit the backbone.
    """
    with nullcontext() if seed is None else torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seeds.derive(seed, "initialisation"))
        segmenter = Segmenter(model, num_classes, drop_path=drop_path, channels=channels)
    if backbone_weights is not None:
        state, segmenter.pretrained = tensors.read_backbone(backbone_weights, model)
        if model.weights != "none":
            expected = segmenter.backbone.state_dict()
            segmenter.backbone.load_state_dict(conversion.fit(state, expected, str(backbone_weights)))
    return segmenter
