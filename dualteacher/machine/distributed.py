"""Data-parallel training in several processes, each with a share of every step's images.

The network is not wrapped in DDP, so a method's loss may call it in any way. Gradients are averaged after the backward
pass, in one flat buffer per dtype, and running statistics after the optimiser's step. Every process therefore has the
same student and teachers, and the result does not depend on the number of processes, up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dualteacher.system.errors import UserError

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """This process's rank and the number of processes."""

    rank: int = 0
    size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process is the one that writes files and logs."""
        return self.rank == 0

    def share(self, count: int, what: str) -> slice:
        """This process's slice of `count` items. UserError, naming the setting `what`, if they do not divide evenly."""
        if count % self.size:
            raise UserError(
                f"{what} = {count} cannot be split over {self.size} processes; make it a multiple of {self.size}"
            )
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def every_nth(self, items: Sequence[Any]) -> Sequence[Any]:
        """Every size-th item, starting at this rank; shares may differ by one item."""
        return items[self.rank :: self.size]


def start(device: torch.device) -> tuple[World, torch.device]:
    """Join the process group if a launcher set WORLD_SIZE. On CUDA each process gets the GPU of its local rank."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(), device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    return World(dist.get_rank(), dist.get_world_size()), device


def stop() -> None:
    """Wait for all processes and leave the group. Call after all files are written."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


@torch.no_grad()
def average(tensors: Iterable[Tensor], world: World) -> None:
    """Replace each tensor by its mean over the processes; one all-reduce per dtype."""
    if world.size == 1:
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for group in by_type.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        reduce_sum(flat, world)
        flat /= world.size
        torch._foreach_copy_(
            group,
            [p.view(t.shape) for p, t in zip(flat.split([t.numel() for t in group]), group, strict=True)],
        )


def reduce_sum(tensor: Tensor, world: World) -> Tensor:
    """Sum over the processes, in place. UserError if another process has ended."""
    if world.size > 1:
        try:
            dist.all_reduce(tensor)
        except RuntimeError as error:
            raise UserError(
                "another process of this run has ended (see its own message); run the same command to resume from the"
                " last checkpoint"
            ) from error
    return tensor


def average_gradients(networks: Sequence[nn.Module], world: World) -> None:
    """Average the gradients over the processes, which saw different images."""
    average([p.grad for network in networks for p in network.parameters() if p.grad is not None], world)


def average_buffers(networks: Sequence[nn.Module], world: World) -> None:
    """Average the running statistics, which each process updated from its own images; not those of frozen modules."""
    modules = [module for network in networks for module in network.modules() if module.training]
    average([b for module in modules for b in module.buffers(recurse=False) if b.is_floating_point()], world)
