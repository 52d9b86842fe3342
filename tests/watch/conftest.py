"""A small project in which the stages run in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dualteacher.settings import Settings
from tests.core.conftest import prepare, toy_settings


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The current folder has prepared data, a partition and empty backbone weights."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    settings = toy_settings()
    prepare(settings)
    return settings
