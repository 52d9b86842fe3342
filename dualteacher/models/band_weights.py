"""The first layer of a network of other than three channels, from one for RGB or for as many channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dualteacher.data.channels import Channels
from dualteacher.system.errors import UserError


def for_inputs_of(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a backbone for as many input channels as `state` has expects. expected: of one for three channels."""
    return {
        key: value.new_empty(state[key].shape) if key in state and _other_inputs(value, state[key], 3) else value
        for key, value in expected.items()
    }


def inputs(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> int:
    """Input channels of a backbone's weights. expected: of one for three channels."""
    counts = [state[key].shape[1] for key, value in expected.items() if _other_inputs(value, state[key], 3)]
    return counts[0] if counts else 3


def inflate(
    state: dict[str, Tensor], expected: Mapping[str, Tensor], channels: Channels, origin: str
) -> dict[str, Tensor]:
    """RGB weights (out, 3, …) for C channels: those of red, green and blue where the channels start with them, the mean
    of the three for every other channel, all times 3 / C.

    So channels that are all alike give what a grey picture gives the RGB network. Weights for C channels stay as they
    are. UserError for weights for any other number.
    """
    count, fitted = channels.count, dict(state)
    for key, value in state.items():
        if key not in expected or not _other_inputs(expected[key], value, count):
            continue
        if value.shape[1] != 3:
            raise UserError(
                f"{origin}: its first layer takes {value.shape[1]} channels, but the images have {count}: choose"
                f" weights for {count} or 3 channels, or set the dataset's `bands` (docs/own-data.md)"
            )
        fitted[key] = _inflated(value, channels)
    return fitted


def _other_inputs(wanted: Tensor, found: Tensor, count: int) -> bool:
    """Whether two convolutions differ in the input channels alone. count: of the wanted one."""
    one, other = list(found.shape), list(wanted.shape)
    return len(one) == 4 and other[1:2] == [count] != one[1:2] and one[:1] + one[2:] == other[:1] + other[2:]


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
