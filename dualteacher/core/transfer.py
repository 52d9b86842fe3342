"""Copies from the host to the device that nothing waits for, and images as floats."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device; from pinned memory to a GPU, since a pageable copy waits for its earlier work."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def unit_range(images: Tensor) -> Tensor:
    """Levels from 0 to 255, uint8 or float32 → float32 in [0, 1]; `images` stays as it is."""
    return images / 255 if images.is_floating_point() else images.float().div_(255)


def fetch(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Start copying tensors of one device to the host; the result waits for the copies. Only CUDA does not wait now."""
    device = tensors[0].device
    copies = [tensor.to("cpu", non_blocking=device.type == "cuda") for tensor in tensors]  # into pinned memory
    if device.type != "cuda":
        return lambda: copies
    arrived = torch.cuda.current_stream(device).record_event()

    def wait() -> list[Tensor]:
        arrived.synchronize()
        return copies

    return wait
