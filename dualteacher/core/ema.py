"""Exponential moving average (EMA) of the student's weights (paper, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def decay(step: int, maximum: float) -> float:
    """a = min(1 - 1/(step + 1), maximum).

    `step` counts from 0 within the teacher's turn. At step 0 the decay is 0, so the teacher starts as a copy of the
    student.
    """
    return min(1 - 1 / (step + 1), maximum)


@torch.no_grad()
def update(teacher: nn.Module, student: nn.Module, keep: float) -> None:
    """teacher ← keep · teacher + (1 - keep) · student, for parameters and floating-point buffers.

    Copies integer buffers (batch counters). One fused call per list of tensors.
    """
    ours, theirs = _floating(teacher), _floating(student)
    if keep == 0.0:
        torch._foreach_copy_(ours, theirs)
    else:
        torch._foreach_lerp_(ours, theirs, 1 - keep)
    counters = [b for b in teacher.buffers() if not b.is_floating_point()]
    if counters:
        torch._foreach_copy_(counters, [b for b in student.buffers() if not b.is_floating_point()])


def _floating(module: nn.Module) -> list[Tensor]:
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    return [parameter.data for parameter in module.parameters()] + buffers


@torch.no_grad()
def distance(teacher: nn.Module, student: nn.Module) -> Tensor:
    """‖teacher - student‖ / ‖student‖ over all parameters, a scalar on the device."""
    theirs = [parameter.data for parameter in student.parameters()]
    ours = [parameter.data for parameter in teacher.parameters()]
    gap = torch.stack(torch._foreach_norm(torch._foreach_sub(ours, theirs)))
    size = torch.stack(torch._foreach_norm(theirs))
    return gap.norm() / size.norm().clamp(min=1e-12)
