"""Train in Python: the pipeline's own stages, in a project's folder, one method and one seed."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from dualteacher import settings as all_settings
from dualteacher.api.model import Model, load
from dualteacher.api.pictures import Classes, Masks, Pictures, place
from dualteacher.cli.running import run_stage
from dualteacher.commands import init, init_params
from dualteacher.stages import weights as weights_stage
from dualteacher.system import console, paths
from dualteacher.system.errors import UserError
from dualteacher.workflow import presets

NAME = "own"  # of the dataset
PARTITION = "all"  # as `init` calls it
CACHE = Path("~/.cache/dualteacher/weights")  # downloaded backbones, shared by all projects made here


def train(
    images: Pictures,
    masks: Masks | None = None,
    unlabelled: Pictures | None = None,
    *,
    classes: Classes | None = None,
    method: str | None = None,
    seed: int = 0,
    quick: bool = False,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **settings: Any,
) -> Model:
    """Train on images with masks, and on images without; return the model with its scores in `metrics`.

    images, masks, unlabelled: folders or lists of pictures; see docs/python.md. classes: names, or names and their
    values in the masks. method: default dual_teacher, or supervised if every image has a mask. quick: a run of about a
    minute. folder: the project's folder, where the same call resumes; default: a temporary one that lives as long as
    the model. settings: sections or dotted keys of params.yaml. UserError for mistakes; Interrupted on Ctrl-C.
    """
    project = Path(tempfile.mkdtemp(prefix="dualteacher-") if folder is None else folder).absolute()
    try:
        model = _train_in(project, (images, masks, unlabelled, classes), (method, seed, quick), settings, progress)
    except BaseException:
        if folder is None:
            shutil.rmtree(project, ignore_errors=True)
        raise
    if folder is None:
        weakref.finalize(model, shutil.rmtree, project, ignore_errors=True)
    return model


def _train_in(
    project: Path,
    data: tuple[Pictures, Masks | None, Pictures | None, Classes | None],
    run: tuple[str | None, int, bool],
    changes: Mapping[str, Any],
    progress: bool,
) -> Model:
    """Train in a project's folder. data: images, masks, unlabelled, classes; run: method, seed, quick."""
    _copy_base(project)
    with _as_before(), console.embedded(progress):
        with contextlib.chdir(project):
            init.check_replaceable(force=False)
        place(project / init_params.OWN_DATA / NAME, *data)  # whose paths are relative to the caller's folder
        with contextlib.chdir(project):
            cell = _configure(*run, changes)
            with _script_hidden():
                _run_stages(cell)
            device = all_settings.load().runtime.device
    return load(project / cell.folder, device)


def _copy_base(project: Path) -> None:
    """Give the project the presets that `init` starts from."""
    folder = project / presets.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for packaged in presets.PACKAGED:
        if not (folder / packaged.name).exists():
            shutil.copyfile(packaged, folder / packaged.name)


def _configure(method: str | None, seed: int, quick: bool, changes: Mapping[str, Any]) -> paths.Cell:
    """Write params.yaml as `init` does, with the caller's changes; return the run."""
    if "grid" in changes or any(key.startswith("grid.") for key in changes):
        raise UserError("grid: train() runs one method and one seed; give method= and seed=")
    data = init_params.OWN_DATA / NAME
    described, _ = init.describe(data)
    text, _ = init_params.compose(NAME, init.valid(data, described), quick)
    made = presets.commented(text)
    method = method or made["grid"]["method"][-1]
    made["grid"] |= {"method": [method], "seed": [seed]}
    if torch.cuda.is_initialized():  # this process stays on the device it has; a fresh one takes a free GPU
        made["runtime"]["device"] = f"cuda:{torch.cuda.current_device()}"
    for key, value in changes.items():
        _assign(made, key.split("."), value)
    if made["model"]["weights"] == "none" and not _sets_norm(changes):
        made["batch"]["norm"] = "joint"  # there are no pretrained statistics to keep
    origin = "dualteacher.train"
    loaded = all_settings.parse(presets.plain(made), origin)
    if loaded.runtime.processes > 1:
        raise UserError(f"{origin}: runtime.processes: train() runs in this process; use the command line for more")
    init.write(presets.dump(made), origin)
    return paths.Cell(NAME, PARTITION, method, seed)


def _sets_norm(changes: Mapping[str, Any]) -> bool:
    batch = changes.get("batch")
    return "batch.norm" in changes or (isinstance(batch, Mapping) and "norm" in batch)


def _assign(section: Any, keys: list[str], value: Any) -> None:
    """Set a dotted key; a mapping changes only the keys it has."""
    first, *rest = keys
    if rest:
        value = {".".join(rest): value}
    if isinstance(value, Mapping) and isinstance(section.get(first), Mapping):
        for key, inner in value.items():
            _assign(section[first], str(key).split("."), inner)
    else:
        section[first] = value


def _run_stages(cell: paths.Cell) -> None:
    """Run all stages in the current folder. A finished run with equal inputs and settings is not trained again."""
    names = {"dataset": cell.dataset, "partition": cell.partition}
    start = (cell.dataset, cell.partition, cell.seed)
    run = (cell.dataset, cell.partition, cell.method, cell.seed)
    if not weights_stage.RAW.exists():
        _share_downloads(weights_stage.RAW)
    run_stage("weights")
    run_stage("download", cell.dataset)
    run_stage("prepare", cell.dataset)
    run_stage("classes", cell.dataset)
    run_stage("partition", *start, names=names)
    run_stage("warmup", *start, names=names, on_gpus=True)
    run_stage("train", *run, names=names | {"method": cell.method}, on_gpus=True)
    run_stage("evaluate", *run, names=names | {"method": cell.method}, on_gpus=True)


def _share_downloads(raw: Path) -> None:
    """Link the folder of downloaded backbones to the user's cache, so that a temporary project need not fetch them."""
    with contextlib.suppress(OSError, RuntimeError):  # no home, no links: download them into the project
        cache = CACHE.expanduser()
        cache.mkdir(parents=True, exist_ok=True)
        raw.parent.mkdir(parents=True, exist_ok=True)
        raw.symlink_to(cache, target_is_directory=True)


@contextlib.contextmanager
def _script_hidden() -> Iterator[None]:
    """Keep loader processes from importing the caller's script, which would call `train` again."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Give the caller's process back its random numbers, threads and determinism."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        with torch.random.fork_rng(devices=[]):  # naming GPUs would initialise CUDA before a free one is chosen
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
