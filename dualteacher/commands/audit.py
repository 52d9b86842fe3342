"""Describe which images a partition labels (`audit`): matching official list, overlaps, pixels per class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dualteacher.data import class_table, official_lists
from dualteacher.data import partition as rules
from dualteacher.data.pack import Pack
from dualteacher.settings import Settings
from dualteacher.stages.partition import pixels_of
from dualteacher.system import paths
from dualteacher.system.errors import UserError


@dataclass(frozen=True)
class Overlap:
    """An official list compared with a partition, by labelled images."""

    name: str
    images: int
    shared: int
    hash: str


def run(settings: Settings, dataset: str, partition: str | None, seed: int | None) -> None:
    """Describe one partition, or all existing ones of this dataset in the grid."""
    place = paths.Dataset(dataset)
    names = settings.grid.partitions if partition is None else [partition]
    seeds = settings.grid.seed if seed is None else [seed]
    splits = [paths.Partition(dataset, name, number) for name in names for number in seeds]
    present = [split for split in splits if split.table.exists()]
    if not present:
        first = splits[0]
        raise UserError(
            f"{first.table}: no such file; create it with `python -m dualteacher partition --dataset {dataset}"
            f" --partition {first.partition} --seed {first.seed}`"
        )
    pack = Pack(place.train)
    pixels = pixels_of(place, pack)
    source = settings.datasets[dataset].source
    official = _fetched(place, source)
    names_of_classes = [info.name for info in class_table.read(dataset)]
    seen: set[str] = set()
    for split in present:
        trained, held_out, unlabelled = rules.read(split.table)
        labelled = sorted([*trained, *held_out])
        digest = rules.list_hash(labelled)
        print(f"{dataset}, partition {split.partition}, seed {split.seed}")
        aside = f" ({len(held_out)} held out)" if held_out else ""
        print(f"  {len(labelled)} labelled{aside} and {len(unlabelled)} unlabelled images")
        print(f"  sha256 of the labelled list: {digest}")
        if digest in seen:
            print("  the same images as above\n")
            continue
        seen.add(digest)
        compared = _against(digest, set(labelled), official) if official else _no_lists(source)
        print("\n".join([*compared, "", *_classes(pack, pixels, labelled, names_of_classes), ""]))


def _fetched(place: paths.Dataset, source: str) -> dict[str, list[str]]:
    """Labelled ids of each official list that has been downloaded, by name."""
    known = {name: official_lists.official(source, name).labelled for name in official_lists.names(source)}
    fetched = {name: file for name, file in known.items() if (place.lists / file.name).exists()}
    return {name: official_lists.read(place.lists, file) for name, file in fetched.items()}


def _no_lists(source: str) -> list[str]:
    """The line for a dataset without lists to compare with."""
    if official_lists.names(source):
        return ["  no official lists to compare with; `lists: true` under the dataset downloads them"]
    return ["  no official lists are known for this dataset"]


def overlaps(labelled: set[str], official: dict[str, list[str]]) -> list[Overlap]:
    """Compare the labelled images with each official list, most similar (Jaccard) first."""

    def jaccard(overlap: Overlap) -> float:
        return overlap.shared / max(len(labelled) + overlap.images - overlap.shared, 1)

    found = [Overlap(name, len(ids), len(labelled & set(ids)), rules.list_hash(ids)) for name, ids in official.items()]
    return sorted(found, key=lambda overlap: (-jaccard(overlap), overlap.name))


def _against(digest: str, labelled: set[str], official: dict[str, list[str]]) -> list[str]:
    """The comparison with the official lists."""
    found = overlaps(labelled, official)
    equal = [overlap.name for overlap in found if overlap.hash == digest]
    wide = max(len("official list"), *(len(overlap.name) for overlap in found))
    lines = [f"  equals the official list {equal[0]}" if equal else "  equals none of the official lists", ""]
    lines.append(f"  {'official list':<{wide}}  {'labelled':>8}  {'shared':>8}  {'of ours':>8}  sha256")
    for overlap in found:
        share = overlap.shared / max(len(labelled), 1)
        row = f"{overlap.images:>8}  {overlap.shared:>8}  {share:>8.1%}  {overlap.hash[:8]}"
        lines.append(f"  {overlap.name:<{wide}}  {row}")
    return lines


def _classes(pack: Pack, pixels: np.ndarray, labelled: list[str], names: list[str]) -> list[str]:
    """Labelled pixels and images per class, rarest last; then the missing classes."""
    rows = pixels[[pack.index(image_id) for image_id in labelled]]
    totals, shown, everywhere = rows.sum(0), (rows > 0).sum(0), pixels.sum(0)
    wide = max(len("class"), *map(len, names))
    lines = [f"  {'class':<{wide}}  {'labelled pixels':>15}  {'share':>7}  {'images':>7}  {'share labelled':>15}"]
    for index in np.argsort(-totals, kind="stable").tolist():
        share = totals[index] / max(totals.sum(), 1)
        of_all = f"{totals[index] / everywhere[index]:>15.1%}" if everywhere[index] else f"{'—':>15}"
        lines.append(f"  {names[index]:<{wide}}  {totals[index]:>15,}  {share:>7.2%}  {shown[index]:>7}  {of_all}")
    missing = [name for name, total in zip(names, totals, strict=True) if total == 0]
    return [*lines, "", f"  classes without a labelled pixel: {', '.join(missing) or 'none'}"]
