"""Synchronised batch normalisation on any backend; torch's own does not support CPU tensors."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation with the statistics of all processes, then the dropout and activation of BatchNormAct2d."""

    def take_over(self, norm: _BatchNorm) -> None:
        """Take over the state, mode, dropout and activation of `norm`."""
        self.load_state_dict(norm.state_dict())
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())
        self.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (B, C, …), not {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(self._normalise(input)))

    def _normalise(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        wide = input.float()
        count = wide.new_full((1,), input.numel() / input.shape[1])
        total = _SumOverProcesses.apply(torch.cat([wide.sum(axes), count]))
        number = total[-1]
        mean = total[:-1] / number
        # two passes: E[x²] - E[x]² loses all digits where the variance is small
        centred = wide - mean.view(shape)
        variance = _SumOverProcesses.apply(centred.square().sum(axes)) / number
        self._follow(mean.detach(), variance.detach(), number.detach())
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        out = centred * scale.view(shape)
        if self.affine:
            out = out + self.bias.view(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, number: Tensor) -> None:
        """Update the running statistics as torch does, with the unbiased variance."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 0.1
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * number / (number - 1).clamp(min=1), momentum)


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce sum; its gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        slope = slope.clone()
        dist.all_reduce(slope)
        return slope


def synchronise_norms(network: nn.Module) -> None:
    """Replace every batch normalisation in `network` by SyncBatchNorm, in place, keeping its state.

    Except those that are frozen (`model.freeze`): they take no statistics from batches.
    """
    for name, child in list(network.named_children()):
        if isinstance(child, _BatchNorm) and not isinstance(child, SyncBatchNorm):
            if child.affine and not child.weight.requires_grad:
                continue
            replace = SyncBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            replace.to(next(iter(child.state_dict().values())).device).take_over(child)
            setattr(network, name, replace)
        else:
            synchronise_norms(child)
