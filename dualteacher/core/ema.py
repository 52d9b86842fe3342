"""Exponential moving average (EMA) of the student's weights (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable

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

    Copies integer buffers (batch counters). Skips tensors that both share (`model.freeze`). One fused call per list of
    tensors.
    """
    pairs = [*_own(teacher.parameters(), student.parameters()), *_own(teacher.buffers(), student.buffers())]
    floating = [pair for pair in pairs if pair[0].is_floating_point()]
    ours, theirs = [own for own, _ in floating], [other for _, other in floating]
    if keep == 0.0:
        torch._foreach_copy_(ours, theirs)
    else:
        torch._foreach_lerp_(ours, theirs, 1 - keep)
    counters = [pair for pair in pairs if not pair[0].is_floating_point()]
    if counters:
        torch._foreach_copy_([own for own, _ in counters], [other for _, other in counters])


def _own(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of tensors, without gradient, that are not one and the same."""
    return [(own.data, other.data) for own, other in zip(ours, theirs, strict=True) if own is not other]


@torch.no_grad()
def distance(teacher: nn.Module, student: nn.Module) -> Tensor:
    """‖teacher - student‖ / ‖student‖ over the parameters that they do not share, a scalar on the device."""
    pairs = _own(teacher.parameters(), student.parameters())
    ours, theirs = [own for own, _ in pairs], [other for _, other in pairs]
    gap = torch.stack(torch._foreach_norm(torch._foreach_sub(ours, theirs)))
    size = torch.stack(torch._foreach_norm(theirs))
    return gap.norm() / size.norm().clamp(min=1e-12)
