"""`batch.norm`: which images share the student's batch normalisation, and what its running statistics follow."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from dualteacher import methods
from dualteacher.data.loader import finish
from dualteacher.machine import sync_norm
from dualteacher.methods import student_pass
from dualteacher.methods.base import Clock
from dualteacher.methods.pseudo_labels import self_label
from dualteacher.methods.supervised import Supervised

from .conftest import toy_settings
from .test_methods import batch_of, step, student_of

NAMES = ["supervised", "mean_teacher", "dual_teacher", "fixmatch", "unimatch", "unimatch_v2", "cps"]
QUIET = {"dropout": 0.0, "drop_path": 0.0}


def settings_of(norm: str):
    return toy_settings(model=QUIET | {"weights": "wheel"}, batch={"norm": norm})


def statistics(network) -> dict[str, torch.Tensor]:
    """Copies of the running statistics and batch counters."""
    return {key: value.clone() for key, value in network.named_buffers() if "running" in key or "tracked" in key}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


def parts_of(settings, count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    side = settings.batch.crop
    return [torch.rand(2, 3, side, side, generator=generator) * (number + 1) / count for number in range(count)]


def test_joint_is_one_pass():
    settings = settings_of("joint")
    student, alone = student_of(settings).train(), student_of(settings).train()
    parts = parts_of(settings)
    found = student_pass.logits(student, parts, "joint")
    assert torch.equal(torch.cat(found), alone(torch.cat(parts)))
    assert equal(statistics(student), statistics(alone))


@pytest.mark.parametrize("synchronised", [False, True])
def test_by_view_is_one_pass_per_part_and_statistics_follow_the_first(synchronised):
    settings = settings_of("by_view")
    student = student_of(settings).train()
    if synchronised:
        sync_norm.synchronise_norms(student)
    parts = parts_of(settings)
    copies = [copy.deepcopy(student) for _ in parts]
    found = student_pass.logits(student, parts, "by_view")
    for logits, other, part in zip(found, copies, parts, strict=True):
        assert torch.equal(logits, other(part))
    assert equal(statistics(student), statistics(copies[0]))
    assert not equal(statistics(student), statistics(copies[1]))
    student_pass.logits(student, parts, "by_view")  # the first part is followed again
    copies[0](parts[0])
    assert equal(statistics(student), statistics(copies[0]))


def test_by_view_with_synchronised_statistics_of_a_process_group(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)  # a group of one process
    settings = settings_of("by_view")
    student = student_of(settings).train()
    sync_norm.synchronise_norms(student)
    alone = copy.deepcopy(student)
    parts = parts_of(settings)
    student_pass.logits(student, parts, "by_view")
    alone(parts[0])
    assert equal(statistics(student), statistics(alone))
    alone(parts[1])
    assert not equal(statistics(student), statistics(alone))


@pytest.mark.parametrize("norm", ["joint", "by_view"])
def test_perturbation_reaches_its_part_only(norm):
    settings = settings_of(norm)
    student = student_of(settings).eval()
    parts = parts_of(settings)
    plain = student_pass.logits(student, parts, norm)
    changed = student_pass.logits(student, parts, norm, {1: torch.neg})
    for number in (0, 2):
        torch.testing.assert_close(changed[number], plain[number])
    assert not torch.allclose(plain[1], changed[1])


@pytest.mark.parametrize("norm", ["by_view", "frozen"])
@pytest.mark.parametrize("name", NAMES)
def test_every_method_steps(name, norm):
    settings = settings_of(norm)
    student = student_of(settings).train()
    method = methods.build(name, settings, student)
    networks = [student, *method.partners]
    alone = [copy.deepcopy(network) for network in networks]  # sees the labelled images only
    before = [statistics(network.backbone) for network in networks]
    weights = [dict(network.backbone.named_parameters()) for network in networks]
    weights = [{key: value.detach().clone() for key, value in found.items()} for found in weights]
    optimizer = torch.optim.SGD([p for network in networks for p in network.parameters()], lr=0.05)
    _, result = step(method, student, optimizer, 0, settings)
    assert torch.isfinite(result.total)
    for network, copied, old, own in zip(networks, alone, before, weights, strict=True):
        if norm == "frozen":
            assert equal(statistics(network.backbone), old)
            moved = [key for key, value in network.backbone.named_parameters() if not torch.equal(value, own[key])]
            assert any(key.endswith("bn1.weight") for key in moved)
            assert int(network.head.norm.num_batches_tracked) == 1
        else:
            copied(finish(batch_of(settings)).labelled)
            assert equal(statistics(network), statistics(copied))


def test_joint_statistics_follow_all_views():
    """Checks that the equality tested above for by_view is not trivial."""
    settings = settings_of("joint")
    student = student_of(settings).train()
    method = methods.build("dual_teacher", settings, student)
    alone = copy.deepcopy(student)
    step(method, student, torch.optim.SGD(student.parameters(), lr=0.05), 0, settings)
    alone(finish(batch_of(settings)).labelled)
    assert not equal(statistics(student), statistics(alone))


def test_frozen_survives_switches_of_mode_and_leaves_other_layers_alone():
    settings = settings_of("frozen")
    student = student_of(settings)
    student.train()
    Supervised(None, settings, student)  # the warm-up
    before = statistics(student.backbone)
    self_label(student, finish(batch_of(settings)))
    student(finish(batch_of(settings)).labelled)
    assert equal(statistics(student.backbone), before)
    norms = {module for module in student.backbone.modules() if isinstance(module, _BatchNorm)}
    assert norms and not any(module.training for module in norms)
    assert all(module.training for module in student.modules() if module not in norms)
    Supervised(None, settings_of("joint"), student)
    assert all(module.training for module in student.modules())


def test_frozen_teachers_with_batch_statistics_still_use_those():
    settings = settings_of("frozen")
    options = settings.methods["dual_teacher"].model_copy(update={"normalisation": "batch"})
    settings = settings.model_copy(update={"methods": settings.methods | {"dual_teacher": options}})
    method = methods.build("dual_teacher", settings, student_of(settings).train())
    assert method.active(Clock(0, 3)) == 0
    norms = [module for module in method.teachers[0].modules() if isinstance(module, _BatchNorm)]
    assert norms and all(module.training for module in norms)
