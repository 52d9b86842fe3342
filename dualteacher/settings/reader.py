"""Read params.yaml into typed settings; each error is one line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator
from pydantic_core import ErrorDetails

from dualteacher.settings import batch_norm, strict_yaml
from dualteacher.settings.base import Name, Place, Section
from dualteacher.settings.datasets import SOURCES, AnyDataset
from dualteacher.settings.evaluation import Evaluate, Inference, Report
from dualteacher.settings.grid import Grid, Partition
from dualteacher.settings.methods import KINDS, AnyMethod
from dualteacher.settings.runtime import Runtime
from dualteacher.settings.training import Augment, Batch, Loss, Mixing, Model, Optimizer, Sampling, Train, Warmup
from dualteacher.system import os_errors
from dualteacher.system.errors import UserError

# Sections whose entries have one of several models: the key that selects the model, and the models by its value.
TAGS = {"datasets": ("source", SOURCES), "methods": ("kind", KINDS)}


class Settings(Section):
    """All of params.yaml."""

    grid: Grid
    watched: Place  # folder whose files both engines watch, for datasets of source `folder`
    links: dict[Name, Place]  # links to folders in it, which DVC does not follow by itself
    datasets: dict[Name, AnyDataset]
    partition: dict[Name, Partition]
    model: Model
    batch: Batch
    augment: Augment
    sampling: Sampling
    mixing: Mixing
    loss: Loss
    optimizer: Optimizer
    warmup: Warmup
    train: Train
    methods: dict[Name, AnyMethod]
    inference: Inference
    evaluate: Evaluate
    report: Report
    runtime: Runtime

    @model_validator(mode="after")
    def _grid_is_described(self) -> Settings:
        described = {
            "dataset": set(self.datasets),
            "partition": set(self.partition),
            "method": set(self.methods),
        }
        where = {"dataset": "datasets", "partition": "partition", "method": "methods"}
        used = {"dataset": self.grid.dataset, "partition": self.grid.partitions, "method": self.grid.methods}
        for key, known in described.items():
            for value in used[key]:
                if value not in known:
                    section = key if value in getattr(self.grid, key) else "also"
                    raise ValueError(
                        f"grid.{section}: '{value}' is not defined in {where[key]};"
                        f" defined: {', '.join(sorted(known)) or 'none'}"
                    )
        return self

    @model_validator(mode="after")
    def _no_method_is_called_warmup(self) -> Settings:
        if "warmup" in self.methods:
            raise ValueError("methods.warmup: this name is reserved for the warm-up; choose another")
        return self

    @model_validator(mode="after")
    def _batch_norm_can_train(self) -> Settings:
        if reason := batch_norm.unfit(self):
            raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _teachers_can_be_scored(self) -> Settings:
        without = [name for name in self.grid.methods if not self.methods[name].has_teachers]
        if self.evaluate.weights == "teachers" and without:
            raise ValueError(
                f"evaluate.weights = 'teachers', but {without[0]} of the grid has no teachers; use average, or take"
                f" {without[0]} out of the grid"
            )
        return self

    @model_validator(mode="after")
    def _lists_are_known(self) -> Settings:
        from dualteacher.data import official_lists

        for partition in self.grid.partitions:
            wanted = self.partition[partition].list
            for dataset in self.grid.dataset if wanted is not None else []:
                described = self.datasets[dataset]
                known = official_lists.names(described.source)
                if wanted not in known:
                    raise ValueError(
                        f"partition.{partition}.list: datasets.{dataset} has no official list '{wanted}';"
                        f" available: {', '.join(known) or 'none'}"
                    )
                if not getattr(described, "lists", False):
                    raise ValueError(f"partition.{partition}.list needs datasets.{dataset}.lists: true")
        return self


def load(path: str | os.PathLike[str] = "params.yaml") -> Settings:
    """Read and validate a settings file; UserError for any error in it."""
    path = Path(path)
    try:
        raw = strict_yaml.load(path)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; run in the project's folder, create the file with"
            " `python -m dualteacher use textures`, or a new project with `python -m dualteacher new DIR`"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {os_errors.explain(error)}") from None
    return parse(raw, str(path))


def parse(raw: Any, origin: str = "params.yaml") -> Settings:
    """Validate an already parsed settings mapping."""
    if not isinstance(raw, dict):
        raise UserError(f"{origin}: expected a mapping of sections, not {type(raw).__name__}")
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{origin}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """Describe the first error, and count the others."""
    # a misspelt key is reported as missing too; the unknown key is more helpful
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    key = ".".join(str(part) for part in _as_written(first["loc"]))
    kind, value = first["type"], first.get("input")
    if kind == "extra_forbidden":
        text = f"unknown key '{key}'{_similar(first['loc'])}"
    elif kind == "missing":
        text = f"key '{key}' is missing"
    elif kind in ("union_tag_not_found", "union_tag_invalid"):
        text = _explain_tag(first)
    else:
        message = first["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        shown = "" if isinstance(value, dict) else f" = {value!r}"
        text = f"{key}{shown}: {message}" if key else message
        if isinstance(value, str) and kind.startswith(("float", "int")) and value[:1].isdigit():
            text += " (YAML reads 1e-3 as text; write 0.001)"
    more = len(problems) - 1
    return text + (f" (and {more} more error{'s' if more > 1 else ''})" if more else "")


def _explain_tag(problem: ErrorDetails) -> str:
    """Describe a missing or unknown `source` or `kind`."""
    section, name = problem["loc"][:2]
    tag, allowed = TAGS[str(section)]
    if problem["type"] == "union_tag_not_found":
        return f"key '{section}.{name}.{tag}' is missing (one of: {', '.join(allowed)})"
    given = problem["ctx"]["tag"]
    return f"{section}.{name}.{tag} = {given!r}: unknown{_near(given, allowed)}; one of: {', '.join(allowed)}"


def _as_written(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The keys as in the file: pydantic inserts the tag's value below datasets.NAME and methods.NAME."""
    written = location[:2] + location[3:] if location and location[0] in TAGS else location
    return tuple(part for part in written if part != "[key]")  # marks an invalid name


def _similar(location: tuple[int | str, ...]) -> str:
    """Suggestion for an unknown key: "; did you mean 'x'? (allowed: …)"."""
    model: Any = Settings
    if location[:1] and location[0] in TAGS and len(location) > 3:
        model, location = TAGS[str(location[0])][1][str(location[2])], location[3:]
    for part in location[:-1]:
        field = model.model_fields.get(str(part)) if hasattr(model, "model_fields") else None
        if field is None:
            return ""
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if hasattr(c, "model_fields")), None)
        if model is None:
            return ""
    allowed = sorted(model.model_fields)
    return f"{_near(location[-1], allowed)} (allowed: {', '.join(allowed)})"


def _near(given: object, allowed: Iterable[str]) -> str:
    """Suggestion if a word is close enough: "; did you mean 'x'?"."""
    near = difflib.get_close_matches(str(given), list(allowed), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
