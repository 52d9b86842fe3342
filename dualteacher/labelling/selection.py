"""Choose the unlabelled images to label next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dualteacher.core import seeds
from dualteacher.data import partition
from dualteacher.data.pack import Pack
from dualteacher.labelling import choice
from dualteacher.labelling.observe import VIEWS, Observer
from dualteacher.models import saved
from dualteacher.system import files, paths
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError
from dualteacher.training import committee

SHORTLIST = 3  # mixed: diversity chooses from the SHORTLIST × count most uncertain images


@dataclass
class Chosen:
    """The chosen images."""

    rows: list[int]  # of the pack, best first
    scores: dict[str, np.ndarray] = field(default_factory=dict)  # by name, one value per row
    how: str = ""  # the strategy, in words


def open_data(cell: paths.Cell, description: dict[str, Any]) -> tuple[Pack, partition.Roles]:
    """Return the training images and their roles; UserError if they have changed since the network was trained."""
    table = paths.Partition(cell.dataset, cell.partition, cell.seed).table
    pack, roles = Pack(paths.Dataset(cell.dataset).train), partition.read(table)
    if files.sha256(table) != description["partition_sha256"] or not saved.knows(description, "train", pack):
        raise UserError(f"{cell.student}: {table} or its images have changed since training; train again")
    return pack, roles


def choose(
    observer: Observer, cell: paths.Cell, unlabelled: Sequence[int], labelled: Sequence[int], count: int, by: str
) -> Chosen:
    """Choose `count` of the unlabelled rows.

    by: uncertainty, disagreement, diversity, mixed or random; docs/labelling.md defines them.
    """
    rows = np.array(unlabelled)
    if by == "random":
        order = seeds.generator(cell.seed, "suggest").permutation(len(rows))[:count]
        return Chosen(rows[order].tolist(), how="random draw")
    if by == "disagreement":
        networks, kind = committee.load(cell, observer.model)
        for network in networks:
            network.to(observer.device)
        how = f"disagreement of {committee.describe(networks, kind)}"
        if not networks:
            logger.warning("%s: no teachers of this run found; comparing views of its student instead", cell.committee)
            how = f"disagreement of {len(VIEWS)} views (scaled, mirrored) of the student"
        scores = observer.disagreement(unlabelled, networks)
        first = choice.highest(scores, count)
        return Chosen(rows[first].tolist(), {"disagreement": scores[first]}, how)
    how, shortlist = "diversity (k-centre of pooled features)", np.arange(len(rows))
    if by != "diversity":
        scores = observer.uncertainty(unlabelled)
        shortlist = choice.highest(scores, count * (SHORTLIST if by == "mixed" else 1))
        if by == "uncertainty":
            return Chosen(rows[shortlist].tolist(), how="uncertainty (mean of 1 - confidence)")
        how = f"diversity among the {len(shortlist)} most uncertain"
    centres = observer.features(labelled)
    places, distances = choice.k_centre(observer.features(rows[shortlist].tolist()), centres, count)
    return Chosen(rows[shortlist][places].tolist(), {"distance": distances}, how)
