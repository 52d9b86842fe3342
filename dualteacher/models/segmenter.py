"""The segmentation network: normalisation, backbone, head."""

from __future__ import annotations

import operator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dualteacher import settings
from dualteacher.core import seeds
from dualteacher.data.channels import RGB, Channels
from dualteacher.models import backbones, band_weights, blocks, conversion, heads, recompute, tensors
from dualteacher.models.heads.layers import resize
from dualteacher.system.console import logger


class Segmenter(nn.Module):
    """Image (B, C, H, W) → logits at the stride of its head: 4 for SegFormer and DeepLabV3+ on a pyramid."""

    fixed_norms = False  # see fix_norms
    stride: float  # of the logits, pixels; need not be whole
    mean: Tensor
    std: Tensor

    def __init__(self, model: settings.Model, num_classes: int, *, drop_path: float, channels: Channels = RGB) -> None:
        super().__init__()
        backbone = backbones.create(model.backbone, model.architecture, drop_path, channels.count)
        self.settings = model
        self.num_classes = num_classes
        self.channels = channels  # how images are read for it
        self.pretrained: dict[str, Any] = {}  # where the backbone's start came from; see weights.py
        self.levels = backbone.levels
        self.widths = backbone.channels  # of the feature maps that the head takes
        self.multiple = backbone.multiple
        self.channels_last = backbone.channels_last
        self.backbone = backbone.network
        frozen = blocks.freeze(model.backbone, self.backbone, model.freeze)
        self.frozen = tuple(f"backbone.{name}" if name else "backbone" for name in frozen)  # modules, parameters
        if model.recompute:
            recompute.check(model.backbone, self.backbone)
        self.head, self.stride = heads.create(
            model.architecture, backbone.channels, backbone.strides, model.head_width, num_classes, model.dropout,
            model.head_norm,
        )  # fmt: skip
        for name, values in (("mean", backbone.mean), ("std", backbone.std)):
            numbers = torch.tensor(band_weights.statistics(values, channels))
            self.register_buffer(name, numbers.view(1, channels.count, 1, 1))
        # Channels-last weights make the convolutions run channels-last: a step takes 0.55 of the time on a CPU.
        self.to(memory_format=torch.channels_last)
        self.train()

    def features(self, image: Tensor) -> list[Tensor]:
        """Image (B, C, H, W) in [0, 1] → the feature maps that the head takes, finest first."""
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
        """Image (B, C, H, W) in [0, 1], any H and W ≥ 32 → logits (B, num_classes, ~H/stride, ~W/stride)."""
        return self.head(self.features(image))

    def train(self, mode: bool = True) -> Self:
        """As in torch, except that what is frozen, and fixed norms, stay in eval mode."""
        super().train(mode)
        for part in self.frozen_parts():
            if isinstance(part, nn.Module):
                part.eval()
        if self.fixed_norms:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.training = False
        if self.settings.recompute and self.settings.freeze != "backbone":
            recompute.switch(self.backbone, mode)
        return self

    def fix_norms(self, fixed: bool) -> None:
        """Whether the backbone's batch normalisation uses its running statistics in train mode too, and keeps them.

        Its weights and biases still train. The head starts at random, without statistics, so it is not concerned.
        """
        if fixed != self.fixed_norms:
            self.fixed_norms = fixed
            self.train(self.training)

    def frozen_parts(self) -> list[nn.Module | nn.Parameter]:
        """What training leaves as it is (`model.freeze`): the largest modules, and single parameters of others."""
        return [operator.attrgetter(name)(self) for name in self.frozen]

    def trained_state(self) -> dict[str, Tensor]:
        """The state dict without what is frozen."""
        state = self.state_dict()
        return {key: value for key, value in state.items() if not self._is_frozen(key)} if self.frozen else state

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Load what `trained_state` gave; what is frozen stays."""
        self.load_state_dict({key: value for key, value in self.state_dict().items() if self._is_frozen(key)} | state)

    def _is_frozen(self, key: str) -> bool:
        return any(key == name or key.startswith(f"{name}.") for name in self.frozen)

    def parameter_groups(
        self, learning_rate: float, head_multiplier: float, weight_decay: float, layer_decay: float = 1.0
    ) -> list[dict]:
        """Optimiser groups: backbone and head, each with and without weight decay. Omits empty groups and frozen
        parameters.

        Weights and biases of normalisation layers do not decay; other biases do, as in the published settings. The
        head's learning rate is `head_multiplier` times the backbone's. With a `layer_decay` below 1 the backbone has
        groups per layer: the rate of its last block is multiplied by it once, that of the block before twice, and so on
        down to the stem. Each group has "name", "params" (in layer order), "lr" and "weight_decay".
        """
        rates = self._backbone_rates(learning_rate, layer_decay)
        groups = []
        for name, part in (("backbone", self.backbone), ("head", self.head)):
            decaying, constant = _by_decay(part)
            for kind, parameters, decay in (("decay", decaying, weight_decay), ("no_decay", constant, 0.0)):
                by_rate: dict[tuple[str, float], list[nn.Parameter]] = {}
                for parameter in parameters:
                    place = rates.get(parameter, (name, learning_rate * (head_multiplier if name == "head" else 1.0)))
                    by_rate.setdefault(place, []).append(parameter)
                for (layer, rate), chosen in by_rate.items():
                    groups.append({"name": f"{layer}_{kind}", "params": chosen, "lr": rate, "weight_decay": decay})
        return groups

    def _backbone_rates(self, learning_rate: float, layer_decay: float) -> dict[nn.Parameter, tuple[str, float]]:
        """Parameter → (name of its layer, learning rate); empty if the backbone's layers have one rate."""
        if layer_decay == 1.0:
            return {}
        layers = blocks.layers(self.settings.backbone, self.backbone)
        above = max(layers.values()) + 1
        rates = {layer: learning_rate * layer_decay ** (above - layer) for layer in range(above)}
        named = self.backbone.named_parameters()
        return {parameter: (f"backbone_{layers[key]}", rates[layers[key]]) for key, parameter in named}


def _by_decay(part: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters (outside, inside) normalisation layers."""
    decaying: list[nn.Parameter] = []
    constant: list[nn.Parameter] = []
    for module in part.modules():
        chosen = constant if blocks.is_norm(module) else decaying
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
        if model.weights == "none" and segmenter.frozen:
            logger.warning(f"model.freeze = {model.freeze} freezes random weights; set model.weights")
        if model.weights != "none":
            expected = segmenter.backbone.state_dict()
            state = band_weights.inflate(
                state, expected, channels, segmenter.pretrained.get("file", str(backbone_weights))
            )
            segmenter.backbone.load_state_dict(conversion.fit(state, expected, str(backbone_weights)))
    return segmenter
