"""Which runs: the grid, and the partitions that it names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dualteacher.settings.base import AtLeastOne, Count, Name, Section


class Extra(Section):
    """A product of partitions and methods, for every dataset and seed of the grid; two empty lists: none."""

    partition: list[Name]  # keys of `partition`
    method: list[Name]  # keys of `methods`

    @model_validator(mode="after")
    def _both_or_none(self) -> Extra:
        if bool(self.partition) != bool(self.method):
            raise ValueError("give both partitions and methods, or an empty list for each")
        return self


class Also(Section):
    """Runs beside the product; DVC can list them because the first kind alone has splits and warm-ups of its own."""

    bound: Extra  # on other partitions, such as one with all labels
    ablation: Extra  # other methods on some of the grid's partitions


class Grid(Section):
    """Which cells are run: the product of the four lists, and what stands under `also`."""

    dataset: list[Name] = Field(min_length=1)  # keys of `datasets`
    partition: list[Name] = Field(min_length=1)  # keys of `partition`
    method: list[Name] = Field(min_length=1)  # keys of `methods`
    seed: list[Count] = Field(min_length=1)  # a cell each
    also: Also  # runs beside the product

    @property
    def partitions(self) -> list[str]:
        """All partitions, the bounds' last."""
        return [*self.partition, *self.also.bound.partition]

    @property
    def methods(self) -> list[str]:
        """All methods: the grid's, the ablations', the bounds'."""
        extra = self.also
        return list(dict.fromkeys([*self.method, *extra.ablation.method, *extra.bound.method]))

    def methods_on(self, partition: str) -> list[str]:
        """The methods that are run on a partition."""
        extra = self.also
        if partition in extra.bound.partition:
            return extra.bound.method
        return [*self.method, *(extra.ablation.method if partition in extra.ablation.partition else [])]

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """(dataset, partition, method) of every row of the table; each has a cell for every seed."""
        return [(d, p, m) for d in self.dataset for p in self.partitions for m in self.methods_on(p)]

    @model_validator(mode="after")
    def _no_repeats(self) -> Grid:
        extras = (("also.bound.", self.also.bound), ("also.ablation.", self.also.ablation))
        lists = {key: getattr(self, key) for key in ("dataset", "partition", "method", "seed")}
        lists |= {f"{name}{key}": getattr(extra, key) for name, extra in extras for key in ("partition", "method")}
        for key, values in lists.items():
            if len(set(values)) != len(values):
                raise ValueError(f"grid.{key} lists a value twice: {values}")
        return self

    @model_validator(mode="after")
    def _each_cell_once(self) -> Grid:
        bound, ablation = self.also.bound, self.also.ablation
        for name in bound.partition:
            if name in self.partition:
                raise ValueError(f"grid.also.bound.partition names '{name}', which grid.partition has already")
        for name in ablation.partition:
            if name not in self.partition:
                raise ValueError(f"grid.also.ablation.partition names '{name}', which grid.partition lacks")
        for name in ablation.method:
            if name in self.method:
                raise ValueError(f"grid.also.ablation.method names '{name}', which grid.method has already")
        return self


class Partition(Section):
    """Which training images keep their masks: a share of them, a number, or an official list."""

    fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None  # of all training images
    count: AtLeastOne | Literal["all"] | None  # all: every image that has a mask
    list: Name | None  # its name in dualteacher/data/partition_lists.json
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] | None  # share of these that only picks the epoch; null: the last

    @model_validator(mode="after")
    def _one_of(self) -> Partition:
        if [self.fraction, self.count, self.list].count(None) != 2:
            raise ValueError("give exactly one of fraction, count and list, and null for the others")
        return self
