"""A run that is killed, wherever it is, and started again ends in the same bytes as an undisturbed one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .conftest import TRAINING, Spawner, content, copy

pytestmark = pytest.mark.slow
KINDS = {  # of places at which a run is killed, and how many are drawn of each
    "in a step": (5, lambda place: "step" in place and "begin" in place),
    "behind a step": (2, lambda place: ": end" in place),
    "in the write of a checkpoint": (4, lambda place: ".pt: half" in place),
    "behind the write of a checkpoint": (2, lambda place: ".pt: written" in place or ".pt: renamed" in place),
    "in a validation": (2, lambda place: "step" in place and "prediction" in place),
    "in the write of a run's outputs": (2, lambda place: "results" in place and "metrics" not in place),
    "in the evaluation": (3, lambda place: "evaluate" in place or "metrics" in place),
}


def left(folder: Path) -> tuple[str, ...]:
    """The stages without the warm-up once that is done."""
    done = (folder / "results/runs/toy/some/warmup/seed0/student.safetensors").exists()
    return TRAINING[1:] if done else TRAINING


def test_killed_at_twenty_random_places_it_ends_in_the_same_bytes(
    spawn: Spawner, prepared: Path, finished: Path, tmp_path: Path
) -> None:
    places = (finished / "places").read_text().splitlines()
    assert len(set(places)) == len(places) > 100
    rng = random.Random(20)
    drawn: set[str] = set()
    for number, fits in KINDS.values():
        drawn.update(rng.sample([place for place in places if fits(place) and place not in drawn], number))
    assert len(drawn) == 20

    folder = copy(prepared, tmp_path / "project")
    for place in sorted(drawn, key=places.index):
        said = spawn(folder, *left(folder), code=-9, die=place)
        assert "Traceback" not in said, place
    said = spawn(folder, *left(folder))
    assert "made by this exact run" in said  # the last place is in the evaluation: nothing is trained again

    assert content(folder, "data", "results/runs") == content(finished, "data", "results/runs")
    assert not list(folder.rglob("*.pt")) and not list(folder.rglob("*.tmp*"))


def test_killed_at_random_moments_it_ends_in_the_same_bytes(
    spawn: Spawner, prepared: Path, finished: Path, tmp_path: Path
) -> None:
    """Between any two machine instructions: where, nobody chose."""
    rng = random.Random(8)
    folder = copy(prepared, tmp_path / "project")
    for _ in range(10):
        spawn(folder, *left(folder), code=None, seconds=rng.uniform(0.05, 1.0))
        assert spawn.code in (-9, 0)
    spawn(folder, *TRAINING)
    assert content(folder, "data", "results/runs") == content(finished, "data", "results/runs")
