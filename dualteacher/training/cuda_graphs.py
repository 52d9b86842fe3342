"""A shard's forward and backward passes as CUDA graphs: the host launches one graph in place of some 2,000 kernels.

One graph for each (mix, active teacher). What changes from step to step is copied into fixed buffers before a replay:
images, draws, and the random seed, which the loop sets. So a step's numbers depend on (seed, step) as without graphs.
The optimiser and the EMA stay outside: they are fused, a few launches each. Gradients are averaged between processes as
without graphs.

A graph is trusted only after a test: its second use runs the same step without it too, on inputs that differ from those
of its capture, and compares losses and gradients. If a capture or this test fails, the run goes on without graphs, and
the log says why.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dualteacher.machine.sync_norm import SyncBatchNorm
from dualteacher.methods.base import Clock, Shard
from dualteacher.system.console import logger

if TYPE_CHECKING:
    from dualteacher.data.loader import StepBatch
    from dualteacher.training.job import Job

EAGER = 2  # steps of a key before its graph is captured: libraries allocate and choose kernels in their first calls
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-2, 5e-2  # relative; a stale input is off by far more, atomics by far less

Parts = dict[str, Tensor]
Passes = Callable[["Job", "StepBatch", Any, Clock, Shard], Parts]
Record = Callable[[Callable[[], Parts]], tuple[Parts, Callable[[], None]]]


def choose(job: Job, eager: Passes) -> Passes:
    """Graphs where they can be, else `eager`; the log says why not."""
    if job.device.type != "cuda":
        return eager
    networks = [job.student, *job.method.teachers, *job.method.partners]
    if not job.settings.runtime.graphs:
        reason = "runtime.graphs is false"
    elif any(isinstance(module, SyncBatchNorm) for network in networks for module in network.modules()):
        reason = "model.sync_norm exchanges statistics within a pass"
    elif job.settings.model.recompute:
        reason = "model.recompute restores random states within a pass"
    else:
        return Graphs(eager, [*networks, *([] if job.method.balance is None else [job.method.balance])], recorder())
    logger.info("%s: steps run without CUDA graphs: %s", job.name, reason)
    return eager


def recorder() -> Record:
    """Captures CUDA graphs that share one pool of memory."""
    pool = torch.cuda.graph_pool_handle()

    def record(run: Callable[[], Parts]) -> tuple[Parts, Callable[[], None]]:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        gc.collect()  # a dead cycle may hold gradient accumulators of an eager step, which belong to its stream
        try:
            # thread_local: the loader's pinning thread may allocate meanwhile
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                parts = run()
        except RuntimeError:
            _clean_up(stream, pool)
            raise
        return parts, graph.replay

    return record


def _clean_up(stream: torch.cuda.Stream, pool: tuple[int, int]) -> None:
    """Undo what torch leaves behind when a capture fails (pytorch#171263).

    The capture's stream stays current, the default generator refuses to draw outside a capture, and the allocator
    still serves the capture's pool, so it does not free cached memory when memory runs out.
    """
    torch.cuda.set_stream(stream)
    generator = torch.cuda.default_generators[stream.device.index]
    fresh = torch.Generator(stream.device)
    fresh.manual_seed(generator.initial_seed())
    generator.graphsafe_set_state(fresh)
    with suppress(RuntimeError):  # raised if the allocator has been told already
        torch._C._cuda_endAllocateToPool(stream.device.index, pool)


@dataclass
class Captured:
    """A graph, the buffers that it reads, and the losses' terms that it writes."""

    inputs: tuple[Any, ...]
    parts: Parts
    replay: Callable[[], None]
    tested: bool = False


class Graphs:
    """As the passes without graphs, with the same arguments."""

    def __init__(self, eager: Passes, modules: Iterable[nn.Module], record: Record) -> None:
        """modules: those whose parameters get gradients, or whose buffers a pass may change."""
        self.eager, self.record, self.modules = eager, record, list(modules)
        self.seen: dict[Hashable, int] = {}
        self.captured: dict[Hashable, Captured] = {}
        self.failure: str | None = None

    def __call__(self, job: Job, batch: StepBatch, draws: Any, clock: Clock, shard: Shard) -> Parts:
        if self.failure is not None:
            return self.eager(job, batch, draws, clock, shard)
        key = (job.method.key(clock), shard.groups, shape((batch, draws)))
        found = self.captured.get(key)
        if found is None:
            return self._first(key, job, batch, draws, clock, shard)
        fill(found.inputs, (batch, draws))
        if not found.tested:
            return self._test(found, job, batch, draws, clock, shard)
        found.replay()
        return found.parts

    def _first(self, key: Hashable, job: Job, batch: StepBatch, draws: Any, clock: Clock, shard: Shard) -> Parts:
        """A step without a graph, captured for later where there were enough of them."""
        self.seen[key] = self.seen.get(key, 0) + 1
        if self.seen[key] > EAGER:
            images, numbers = clone(batch), clone(draws)
            try:
                parts, replay = self.record(partial(self.eager, job, images, numbers, clock, shard))
                self.captured[key] = Captured((images, numbers), parts, replay)
            except RuntimeError as error:
                self._give_up(job, _first_cause(error))
        return self.eager(job, batch, draws, clock, shard)

    def _test(self, found: Captured, job: Job, batch: StepBatch, draws: Any, clock: Clock, shard: Shard) -> Parts:
        """Run a step with its graph and without, from one state, and compare; the result is that without."""
        state = self._state()
        before = [tensor.clone() for tensor in state]
        with torch.random.fork_rng([job.device] if job.device.type == "cuda" else []):
            found.replay()
        replayed = {name: value.clone() for name, value in found.parts.items()}
        gradients = [tensor.clone() for tensor in self._gradients()]
        for tensor, old in zip(state, before, strict=True):
            tensor.copy_(old)
        parts = self.eager(job, batch, draws, clock, shard)
        self._compare(job, parts, replayed, self._gradients(), gradients)
        found.tested = True
        if job.device.type == "cuda":
            torch.cuda.empty_cache()  # a graph has its own memory: give that of the eager steps to other jobs
        return parts

    def _compare(
        self, job: Job, parts: Parts, replayed: Parts, gradients: list[Tensor], replayed_gradients: list[Tensor]
    ) -> None:
        for name, value in parts.items():
            one, other = float(value), float(replayed[name])
            if abs(one - other) > LOSS_TOLERANCE * max(abs(one), 1e-2):
                self._give_up(job, f"{name} is {other:.6g} with a graph and {one:.6g} without")
        size = torch.stack(torch._foreach_norm(gradients)).norm()
        gap = torch.stack(torch._foreach_norm(torch._foreach_sub(gradients, replayed_gradients))).norm()
        if float(gap) > GRADIENT_TOLERANCE * float(size):
            self._give_up(job, f"gradients differ by {float(gap / size):.2g} of their norm")
        if self.failure is None:
            logger.info("%s: steps run as CUDA graphs (%s)", job.name, ", ".join(parts))

    def _give_up(self, job: Job, reason: str) -> None:
        if self.failure is None:
            logger.warning("%s: steps run without CUDA graphs: %s", job.name, reason)
        self.failure = reason
        self.captured.clear()

    def _gradients(self) -> list[Tensor]:
        return [p.grad for module in self.modules for p in module.parameters() if p.grad is not None]

    def _state(self) -> list[Tensor]:
        """What a pass changes: gradients and buffers."""
        return [*self._gradients(), *(buffer for module in self.modules for buffer in module.buffers())]


def _first_cause(error: BaseException) -> str:
    """First line of the error that came first: a failed capture raises another one when it ends."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]


def leaves(tree: Any) -> list[Any]:
    """The leaves of nested tuples, lists and dataclasses, in order."""
    if isinstance(tree, tuple | list):
        return [leaf for part in tree for leaf in leaves(part)]
    if dataclasses.is_dataclass(tree):
        return [leaf for field in dataclasses.fields(tree) for leaf in leaves(getattr(tree, field.name))]
    return [tree]


def clone(tree: Any) -> Any:
    """The same tree with copies of its tensors."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, tuple | list):
        parts = [clone(part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return type(tree)(**{f.name: clone(getattr(tree, f.name)) for f in dataclasses.fields(tree)})
    return tree


def fill(buffers: Any, tree: Any) -> None:
    """Copy a tree's tensors into buffers of the same shapes."""
    pairs = [pair for pair in zip(leaves(buffers), leaves(tree), strict=True) if isinstance(pair[0], Tensor)]
    torch._foreach_copy_([buffer for buffer, _ in pairs], [value for _, value in pairs])


def shape(tree: Any) -> Hashable:
    """What of a tree a graph cannot take from a buffer: shapes, and leaves that are no tensors."""
    return tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves(tree))
