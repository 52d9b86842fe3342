"""The first layer of a network of other than three channels, from one for RGB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dualteacher.data.channels import Channels


def inflate(state: dict[str, Tensor], expected: Mapping[str, Tensor], channels: Channels) -> dict[str, Tensor]:
    """RGB weights (out, 3, …) for C channels: those of red, green and blue where the channels start with them, the mean
    of the three for every other channel, all times 3 / C.

    So channels that are all alike give what a grey picture gives the RGB network. Three channels keep the weights.
    """
    count = channels.count
    if count == 3:
        return state
    return {
        key: _inflated(value, channels) if key in expected and _differs(value, expected[key], count) else value
        for key, value in state.items()
    }


def _differs(found: Tensor, wanted: Tensor, count: int) -> bool:
    """Whether the weights are for 3 channels where `count` are wanted."""
    one, other = list(found.shape), list(wanted.shape)
    return one[1:2] == [3] and other[1:2] == [count] and one[:1] + one[2:] == other[:1] + other[2:]


def _inflated(weight: Tensor, channels: Channels) -> Tensor:
    parts = [weight] if channels.starts_with_rgb else []
    mean = weight.float().mean(1, keepdim=True).to(weight.dtype)
    parts += [mean] * (channels.count - 3 * len(parts))
    return torch.cat(parts, 1) * (3 / channels.count)


def statistics(rgb: Sequence[float], channels: Channels) -> list[float]:
    """Means or standard deviations of RGB pixels for each channel; other channels take their mean."""
    if channels.count == 3:
        return list(rgb)
    known = list(rgb) if channels.starts_with_rgb else []
    return known + [sum(rgb) / len(rgb)] * (channels.count - len(known))
