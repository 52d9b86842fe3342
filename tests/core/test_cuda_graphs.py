"""Steps as graphs: a stand-in for CUDA's recorder shows that all a step needs goes through the graph's buffers.

Like a CUDA graph, the stand-in runs what was captured again, with the arguments of its capture: a number of a later
step that is not copied into a buffer would be missed, and the results would differ from those without graphs.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dualteacher import methods
from dualteacher.core import mixing, triton_views, views
from dualteacher.data.loader import finish
from dualteacher.machine import distributed
from dualteacher.machine.distributed import World
from dualteacher.methods.base import Clock
from dualteacher.models import segmenter
from dualteacher.training import cuda_graphs, loop
from dualteacher.training.optimizer import make_optimizer

from .conftest import toy_settings
from .test_methods import batch_of

CPU = torch.device("cpu")
EPOCH = 5
STEPS = 14


def job_of(name: str, **sections) -> loop.Job:
    settings = toy_settings(**sections)
    student = segmenter.build(settings.model, 3, None, drop_path=0.1, seed=0).train()
    method = methods.build(name, settings, student)
    unused = None
    return loop.Job(
        name="test", settings=settings, student=student, method=method, dataset=unused, labelled=unused,
        unlabelled=unused, steps=STEPS, steps_per_epoch=EPOCH, learning_rate=0.01, seed=0, device=CPU, store=unused,
        world=World(), observe=unused,
    )  # fmt: skip


def trained(job: loop.Job) -> list[dict[str, float]]:
    networks = [job.student, *job.method.partners]
    optimizer = make_optimizer(networks, job.settings.optimizer, job.learning_rate)
    seen = []
    for number in range(STEPS):
        parts = loop.step(job, networks, optimizer, batch_of(job.settings, seed=number), Clock(number, EPOCH))
        seen.append({name: float(value) for name, value in parts.items()})
    return seen


class Recorder:
    """Captures by running once and undoing it; replays by running again."""

    def __init__(self, job: loop.Job) -> None:
        self.job, self.captures, self.replays = job, 0, 0

    def __call__(self, run):
        self.captures += 1
        tensors = self.job.passes._state()
        before, random = [tensor.clone() for tensor in tensors], torch.get_rng_state()
        parts = run()
        for tensor, old in zip(tensors, before, strict=True):
            tensor.copy_(old)
        torch.set_rng_state(random)

        def replay():
            self.replays += 1
            for name, value in run().items():
                parts[name].copy_(value)

        return parts, replay


def with_graphs(job: loop.Job) -> Recorder:
    recorder = Recorder(job)
    balance = [] if job.method.balance is None else [job.method.balance]
    modules = [job.student, *job.method.teachers, *job.method.partners, *balance]
    job.passes = cuda_graphs.Graphs(loop.forward_and_backward, modules, recorder)
    return recorder


@pytest.fixture
def order_in_a_tensor(monkeypatch):
    """Draws as on a GPU: the order of the jitter is data."""
    original = mixing.draw

    def draw(*args, **kwargs):
        draws = original(*args, **kwargs)
        object.__setattr__(draws, "order", torch.tensor(draws.order, dtype=torch.int32))
        return draws

    monkeypatch.setattr(mixing, "draw", draw)


NAMES = [
    "supervised", "mean_teacher", "dual_teacher", "dual_teacher_balanced", "dual_teacher_paste", "fixmatch",
    "fixmatch_ema", "unimatch", "unimatch_v2", "cps",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "freeze"), [*((name, "none") for name in NAMES), ("cps", "backbone")])
def test_a_step_as_a_graph_is_the_step(name, freeze, order_in_a_tensor):
    """Bit for bit, over both teachers and mixes, a rising weight, class balance, dropout and two shards a step."""
    sections = {"batch": {"groups": 2, "accumulate": 2, "labelled": 4, "unlabelled": 4}, "model": {"freeze": freeze}}
    plain, graphed = job_of(name, **sections), job_of(name, **sections)
    plain.passes = loop.forward_and_backward
    recorder = with_graphs(graphed)
    assert trained(graphed) == trained(plain)
    for one, other in zip(graphed.student.state_dict().values(), plain.student.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert graphed.passes.failure is None
    keys = 2 if "teacher" in name else 1  # their mixes alternate
    assert recorder.captures == keys
    assert recorder.replays == 2 * STEPS - keys * (cuda_graphs.EAGER + 1)
    draws = [leaf for key in graphed.passes.captured for leaf in key[2] if not isinstance(leaf, tuple)]
    assert all(leaf is None for leaf in draws), "nothing of the draws is baked into a graph"


def by_the_clock(job: loop.Job) -> loop.Job:
    """A method whose loss uses a number of the clock that is not in its key."""
    original = job.method.loss

    def loss(student, images, draws, clock, shard):
        found = original(student, images, draws, clock, shard)
        scale = 1 + clock.step
        return found._replace(total=found.total * scale, parts={k: v * scale for k, v in found.parts.items()})

    job.method.loss = loss
    return job


def test_a_number_that_bypasses_the_buffers_is_noticed(order_in_a_tensor, caplog):
    """The second use compares with a step without the graph; the run goes on as if there were no graph."""
    job, plain = by_the_clock(job_of("mean_teacher")), by_the_clock(job_of("mean_teacher"))
    plain.passes = loop.forward_and_backward
    with_graphs(job)
    assert trained(job) == trained(plain)
    assert "without CUDA graphs: loss is " in caplog.text


def test_a_capture_that_fails_is_said_once_and_costs_nothing(caplog):
    job, plain = job_of("dual_teacher"), job_of("dual_teacher")
    plain.passes = loop.forward_and_backward

    def record(run):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    modules = [job.student, *job.method.teachers]
    job.passes = cuda_graphs.Graphs(loop.forward_and_backward, modules, record)
    assert trained(job) == trained(plain)
    assert caplog.text.count("without CUDA graphs: operation not permitted when stream is capturing") == 1


def test_a_failed_capture_is_cleaned_up(monkeypatch, caplog):
    """Stream, generator and allocator as before; the log names the first error, not the one of the capture's end."""
    device, done = torch.device("cpu", 0), []
    generator = SimpleNamespace(initial_seed=lambda: 7, graphsafe_set_state=lambda new: done.append(new.initial_seed()))

    @contextmanager
    def graph(*args, **kwargs):
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    for name, value in {
        "graph": graph, "CUDAGraph": object, "graph_pool_handle": lambda: (0, 1), "default_generators": (generator,),
        "current_stream": lambda: SimpleNamespace(device=device), "set_stream": lambda to: done.append(to.device),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *where: done.append(where), raising=False)
    job = job_of("supervised")

    def passes(*args):
        if job.passes.seen and max(job.passes.seen.values()) > cuda_graphs.EAGER and not done:
            raise RuntimeError("operation not permitted when stream is capturing")
        return loop.forward_and_backward(*args)

    job.passes = cuda_graphs.Graphs(passes, [job.student], cuda_graphs.recorder())
    trained(job)
    assert done == [device, 7, (0, (0, 1))]
    assert job.passes.failure == "operation not permitted when stream is capturing" in caplog.text


def test_a_cpu_has_no_graphs():
    job = job_of("supervised")
    assert cuda_graphs.choose(job, loop.forward_and_backward) is loop.forward_and_backward


def test_the_rest_of_a_step_is_a_few_launches():
    """What stays outside the graph: a call for each of the optimiser's groups, and lists of tensors for the EMA."""

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if not function.is_view:
                Count.calls += 1
            return function(*args, **(kwargs or {}))

    job = job_of("dual_teacher")
    job.passes = loop.forward_and_backward
    networks = [job.student]
    optimizer = make_optimizer(networks, job.settings.optimizer, job.learning_rate)
    loop.step(job, networks, optimizer, batch_of(job.settings), Clock(0, EPOCH))
    with Count():
        optimizer.step()
        job.method.after_step(job.student, Clock(1, EPOCH))
    assert Count.calls < 20, "of some hundreds of tensors"


def test_several_processes_average_gradients_where_a_graph_writes_them(monkeypatch):
    monkeypatch.setattr(distributed, "reduce_sum", lambda tensor, world: tensor.mul_(world.size))  # equal ranks
    job = job_of("dual_teacher", batch={"groups": 2})
    job.world = World(0, 2)
    with_graphs(job)
    networks = [job.student]
    optimizer = make_optimizer(networks, job.settings.optimizer, job.learning_rate)
    places = []
    for number in range(2):
        loop.step(job, networks, optimizer, batch_of(job.settings, seed=number), Clock(number, EPOCH))
        places.append([p.grad.data_ptr() for p in job.student.parameters()])
    assert places[0] == places[1]


ORDERS = [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2), (2, 3, 0, 1)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_fused_jitter_is_the_jitter(order, device):
    if device == "cpu" and torch.cuda.is_available():
        pytest.skip("Triton compiles here")
    generator = torch.Generator().manual_seed(sum(order[:2]))
    image = torch.rand((3, 3, 37, 41), generator=generator)
    image[0, :, :9] = image[0, :1, :9]  # grey pixels have no hue
    factors = 1 + torch.rand((3, 4), generator=generator) - 0.5
    factors[:, 3] = torch.tensor([0.0, 0.05, -0.3])
    found = triton_views.jitter(
        image.to(device), factors.to(device), torch.tensor(order, dtype=torch.int32, device=device)
    )
    torch.testing.assert_close(found.cpu(), views.jitter(image, factors, order), rtol=0, atol=2e-5)


def test_what_cannot_be_jittered_is_refused():
    with pytest.raises(ValueError, match="cannot jitter"):
        triton_views.jitter(torch.rand(1, 1, 4, 4), torch.ones(1, 4), torch.arange(4, dtype=torch.int32))


def test_order_as_a_tensor_on_the_host():
    image, factors = torch.rand(2, 3, 5, 5), torch.tensor([[1.2, 0.7, 1.1, 0.1]] * 2)
    assert torch.equal(
        views.jitter(image, factors, torch.tensor([3, 1, 0, 2])), views.jitter(image, factors, (3, 1, 0, 2))
    )


def test_trees_are_cloned_and_filled():
    draws = mixing.draw(toy_settings().mixing, 0, 0, 2, 3, (8, 8))
    copies = cuda_graphs.clone(([draws], None))
    assert type(copies[0][0]) is mixing.Draws and copies[0][0].rank is not draws.rank
    other = mixing.draw(toy_settings().mixing, 0, 1, 2, 3, (8, 8))
    cuda_graphs.fill(copies[0][0], other)
    assert torch.equal(copies[0][0].rank, other.rank) and not torch.equal(draws.rank, other.rank)
    assert copy.copy(draws) == draws


def gpu_job(name: str = "dual_teacher", **sections) -> loop.Job:
    job = job_of(name, **{"runtime": {"precision": "float32"}} | sections)
    job.device = torch.device("cuda")
    balance = [] if job.method.balance is None else [job.method.balance]
    for network in (job.student, *job.method.teachers, *job.method.partners, *balance):
        network.to("cuda")
    return job


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_every_method_runs_as_graphs(name, precision):
    """Graphs are captured and pass their comparison with the step without them."""
    if precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bfloat16")
    job = gpu_job(name, batch={"groups": 2, "accumulate": 2, "labelled": 4, "unlabelled": 4},
                  runtime={"precision": precision})  # fmt: skip
    losses = [parts["loss"] for parts in trained(job)]
    assert isinstance(job.passes, cuda_graphs.Graphs) and job.passes.failure is None
    assert len(job.passes.captured) == (2 if "teacher" in name else 1)
    assert all(found.tested for found in job.passes.captured.values())
    assert torch.tensor(losses).isfinite().all()


@pytest.mark.gpu
def test_on_a_gpu_a_failed_capture_leaves_the_run_as_it_was():
    """A pass that waits for the device: the capture fails, and the steps are those without graphs."""
    plain, job = gpu_job(), gpu_job()
    plain.passes = loop.forward_and_backward

    def waiting(*args):
        parts = loop.forward_and_backward(*args)
        parts["loss"].item()
        return parts

    job.passes = cuda_graphs.Graphs(waiting, [job.student, *job.method.teachers], cuda_graphs.recorder())
    for one, other in zip(trained(job), trained(plain), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.05)
    assert job.passes.failure is not None and not job.passes.captured
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.rand(4, device="cuda")  # the generator draws outside a capture


@pytest.mark.gpu
def test_on_a_gpu_steps_are_graphs_and_a_run_resumes():
    """A run from a checkpoint of half of it ends the same, up to rounding."""
    whole, half = gpu_job(), gpu_job()
    expected = trained(whole)
    assert whole.passes.failure is None and len(whole.passes.captured) == 2
    optimizer = make_optimizer([half.student], half.settings.optimizer, half.learning_rate)
    for number in range(STEPS // 2):
        loop.step(half, [half.student], optimizer, batch_of(half.settings, seed=number), Clock(number, EPOCH))
    saved = copy.deepcopy(
        (half.student.state_dict(), [t.state_dict() for t in half.method.teachers], optimizer.state_dict())
    )
    resumed = gpu_job()
    optimizer = make_optimizer([resumed.student], resumed.settings.optimizer, resumed.learning_rate)
    resumed.student.load_state_dict(saved[0])
    for teacher, state in zip(resumed.method.teachers, saved[1], strict=True):
        teacher.load_state_dict(state)
    optimizer.load_state_dict(saved[2])
    for number in range(STEPS // 2, STEPS):
        parts = loop.step(
            resumed, [resumed.student], optimizer, batch_of(resumed.settings, seed=number), Clock(number, EPOCH)
        )
        assert float(parts["loss"]) == pytest.approx(expected[number]["loss"], rel=0.05)


def on_a_fake_gpu(module: torch.nn.Module) -> torch.nn.Module:
    """Replaces parameters and buffers by fake ones on a GPU; inside a FakeTensorMode."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(torch.empty_like(value, device="cuda"), value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = torch.empty_like(value, device="cuda")
    return module


class OnTheDeviceOnly(TorchDispatchMode):
    """Refuses operations on tensors of the host: a copy to the GPU waits, which a capture forbids."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        assert all(tensor.device.type == "cuda" for tensor in tensors), f"{function} takes a tensor of the host"
        return function(*args, **(kwargs or {}))


def test_a_copy_from_the_host_is_noticed():
    with FakeTensorMode(allow_non_fake_inputs=True):
        values = torch.empty(3, device="cuda")
        with OnTheDeviceOnly():
            values + 1.0 * values.where(values > 0, 2.0)
            with pytest.raises(AssertionError, match="takes a tensor of the host"):
                values + torch.tensor([1.0, 2.0, 3.0], device="cuda")


ALL_TERMS = {"terms": ["ohem", "focal", "dice", "tversky"], "ohem_minimum": 10}


@pytest.mark.parametrize(
    ("backbone", "name", "loss"),
    [("mobilenetv2_100", name, {}) for name in NAMES]
    + [("mit_b0", name, {}) for name in ("supervised", "unimatch", "dual_teacher_balanced")]
    + [("mobilenetv2_100", "supervised", ALL_TERMS)],
)
def test_no_pass_on_a_gpu_reads_a_value_or_sizes_by_data(backbone, name, loss, monkeypatch):
    """What a CUDA graph cannot hold raises on fake tensors: a host value, a copy from the host, a size from data.

    Through the Triton kernels' doors. (Backward passes: test_methods, on the meta device.)
    """
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # needs a GPU's driver
    # made in the steps before the capture, and kept
    monkeypatch.setattr(views, "_constant", lambda order, device: torch.empty(4, dtype=torch.int32, device=device))
    settings = toy_settings(model={"backbone": backbone}, loss=loss)
    student = segmenter.build(settings.model, 3, None, drop_path=0.1, seed=0).train()
    method = methods.build(name, settings, student)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for network in (student, *method.teachers, *method.partners):
            on_a_fake_gpu(network)
        if method.balance is not None:
            on_a_fake_gpu(method.balance)
        gpu = torch.device("cuda")
        batch = type(real := batch_of(settings))(*(torch.empty_like(tensor, device=gpu) for tensor in real))
        for number in (0, EPOCH):  # both mixes
            clock = Clock(number, EPOCH)
            draws = method.draw(clock, batch, 0, gpu)
            tensors = [leaf for leaf in cuda_graphs.leaves(draws) if leaf is not None]
            assert all(isinstance(leaf, torch.Tensor) and leaf.device.type == "cuda" for leaf in tensors)
            with OnTheDeviceOnly():
                found = method.loss(student, finish(batch), draws, clock)
            assert found.total.device.type == "cuda" and found.total.shape == ()
