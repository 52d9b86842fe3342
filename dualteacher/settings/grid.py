"""The grid of runs, and the partitions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dualteacher.settings.base import AtLeastOne, Count, Name, Section


class Extra(Section):
    """Additional partition × method combinations, for every dataset and seed of the grid; empty lists: none."""

    partition: list[Name]  # keys of `partition`
    method: list[Name]  # keys of `methods`

    @model_validator(mode="after")
    def _both_or_none(self) -> Extra:
        if bool(self.partition) != bool(self.method):
            raise ValueError("give both partition and method, or an empty list for each")
        return self


class Also(Section):
    """Runs in addition to the product. Only bounds need partitions and warm-ups of their own."""

    bound: Extra  # runs on other partitions, such as one with all labels
    ablation: Extra  # runs of other methods on some of the grid's partitions


class Grid(Section):
    """The runs: the product of the four lists, plus those in `also`."""

    dataset: list[Name] = Field(min_length=1)  # keys of `datasets`
    partition: list[Name] = Field(min_length=1)  # keys of `partition`
    method: list[Name] = Field(min_length=1)  # keys of `methods`
    seed: list[Count] = Field(min_length=1)  # one run each
    also: Also  # runs in addition to the product

    @property
    def partitions(self) -> list[str]:
        """All partitions, those of the bounds last."""
        return [*self.partition, *self.also.bound.partition]

    @property
    def methods(self) -> list[str]:
        """All methods: of the grid, then of ablations and bounds."""
        extra = self.also
        return list(dict.fromkeys([*self.method, *extra.ablation.method, *extra.bound.method]))

    def methods_on(self, partition: str) -> list[str]:
        """Methods to run on a partition."""
        extra = self.also
        if partition in extra.bound.partition:
            return extra.bound.method
        return [*self.method, *(extra.ablation.method if partition in extra.ablation.partition else [])]

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """(dataset, partition, method) of every table row; each row has a run for every seed."""
        return [(d, p, m) for d in self.dataset for p in self.partitions for m in self.methods_on(p)]

    @model_validator(mode="after")
    def _no_repeats(self) -> Grid:
        extras = (("also.bound.", self.also.bound), ("also.ablation.", self.also.ablation))
        lists = {key: getattr(self, key) for key in ("dataset", "partition", "method", "seed")}
        lists |= {f"{name}{key}": getattr(extra, key) for name, extra in extras for key in ("partition", "method")}
        for key, values in lists.items():
            if len(set(values)) != len(values):
                raise ValueError(f"grid.{key} contains a duplicate: {values}")
        return self

    @model_validator(mode="after")
    def _each_cell_once(self) -> Grid:
        bound, ablation = self.also.bound, self.also.ablation
        for name in bound.partition:
            if name in self.partition:
                raise ValueError(f"grid.also.bound.partition: '{name}' is already in grid.partition")
        for name in ablation.partition:
            if name not in self.partition:
                raise ValueError(f"grid.also.ablation.partition: '{name}' is not in grid.partition")
        for name in ablation.method:
            if name in self.method:
                raise ValueError(f"grid.also.ablation.method: '{name}' is already in grid.method")
        return self


class Partition(Section):
    """The labelled training images: a share, a number, or an official list."""

    fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None  # share of all training images
    count: AtLeastOne | Literal["all"] | None  # number of images; all: every image with a mask
    list: Name | None  # a name in dualteacher/data/partition_lists.json
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] | None  # share used only to choose the epoch; null: last epoch

    @model_validator(mode="after")
    def _one_of(self) -> Partition:
        if [self.fraction, self.count, self.list].count(None) != 2:
            raise ValueError("give exactly one of fraction, count and list; set the others to null")
        return self
