"""A small project in which the stages run in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dualteacher.data import partition
from dualteacher.data.pack import Pack
from dualteacher.models import weights
from dualteacher.settings import Settings
from dualteacher.system import paths
from tests.core.conftest import toy_settings, write_pack


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The current folder has prepared data, a partition and empty backbone weights."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    settings = toy_settings()
    dataset = paths.Dataset("toy")
    write_pack(dataset.train, 14, seed=1, unmasked=2)
    write_pack(dataset.val, 4, seed=2)
    pack = Pack(dataset.train)
    partition.write(paths.Partition("toy", "some", 0).table, pack.ids, pack.ids[:5])
    weights.prepare_backbone(settings.model, Path("nothing"))
    return settings
