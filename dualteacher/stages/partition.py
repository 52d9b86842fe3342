"""Choose the training images that keep their masks, at random or from an official list; record the provenance."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow.compute as pc

from dualteacher.core.labels import IGNORE
from dualteacher.data import official_lists, stats
from dualteacher.data import partition as rules
from dualteacher.data.pack import Pack
from dualteacher.settings import Settings
from dualteacher.system import files, paths, sealed
from dualteacher.system.errors import UserError

logger = logging.getLogger(__name__)


def run(settings: Settings, dataset: str, partition: str, seed: int) -> None:
    """Write a partition. Random ones with the same seed are nested; an official list ignores the seed."""
    place = paths.Dataset(dataset)
    split = paths.Partition(dataset, partition, seed)
    wanted = settings.partition[partition]
    pack = Pack(place.train)
    pack.check()
    images = rules.ImagePool(
        ids=pack.ids,
        blocks=pack.blocks,
        pixels=pixels_of(place, pack),
        has_mask=np.array([pack.has_mask(i) for i in range(len(pack))], bool),
    )
    if wanted.list is not None:
        labelled, origin = _listed(place, pack, settings.datasets[dataset].source, wanted.list)
    else:
        count = int(images.has_mask.sum()) if wanted.count == "all" else wanted.count
        drawn = rules.draw(images, seed, wanted.fraction, count)
        labelled = drawn.labelled
        asked = {"fraction": wanted.fraction} if count is None else {"count": count}
        # One block may be labelled only in part, so that the count is exact.
        origin = {"kind": "generated", "unit": images.unit, **asked, "cut_block": drawn.cut_block}
    held_out = rules.hold_out(images, labelled, seed, wanted.held_out) if wanted.held_out is not None else []
    chosen = [pack.index(image_id) for image_id in labelled]
    pixels = images.pixels[chosen].sum(0)
    missing = np.flatnonzero(pixels == 0).tolist()
    provenance: dict[str, Any] = {
        "kind": origin.pop("kind"),
        "dataset": dataset,
        "partition": partition,
        "seed": seed,
        **origin,
        "labelled": len(chosen),
        "held_out": len(held_out),  # among the labelled; used to choose the epoch, not to train
        "unlabelled": len(pack) - len(chosen),
        "list_sha256": rules.list_hash(labelled),
        "pack_sha256": files.sha256(place.train),
        "classes_missing": missing,
        "labelled_pixels": pixels.tolist(),
    }
    rules.write(split.table, pack.ids, labelled, held_out)
    sealed.write_json(split.provenance, provenance)
    text = f"{split.table}: {len(chosen)} labelled" + (f" ({len(held_out)} of them held out)" if held_out else "")
    logger.info("%s, %d unlabelled", text, len(pack) - len(chosen))
    if missing:
        logger.warning("without any labelled image: %s", ", ".join(f"class {index}" for index in missing))


def _listed(place: paths.Dataset, pack: Pack, source: str, name: str) -> tuple[list[str], dict[str, Any]]:
    """(sorted labelled ids, provenance) of an official list, checked against the prepared images."""
    official = official_lists.official(source, name)
    labelled = official_lists.read(place.lists, official.labelled)
    rest = official.unlabelled
    unlabelled = sorted(set(pack.ids) - set(labelled)) if rest is None else official_lists.read(place.lists, rest)
    official_lists.check(name, labelled, unlabelled, pack.ids)
    without = [image_id for image_id in labelled if not pack.has_mask(pack.index(image_id))]
    if without:
        more = "set protocol: blended under the dataset" if source == "voc" else "choose another partition"
        raise UserError(
            f"list {name}: {len(without)} labelled images have no mask in {place.train}"
            f" ({official_lists.some(without)}); {more} in params.yaml"
        )
    file = official.labelled
    digest = file.sha256 or files.sha256(place.lists / file.name)
    where = {"repository": file.repository, "commit": file.commit, "path": file.path, "file_sha256": digest}
    return sorted(labelled), {"kind": "official", "unit": "image", "list": name, **where}


def pixels_of(place: paths.Dataset, pack: Pack) -> np.ndarray:
    """Pixel counts of the training images by class, (images, classes) int64."""
    table = stats.read(place).filter(pc.field("split") == "train").to_pydict()
    pixels = np.zeros((len(pack), pack.num_classes), np.int64)
    columns = (table[name] for name in ("image_id", "class_index", "pixels"))
    for image_id, index, number in zip(*columns, strict=True):
        if index != IGNORE:
            pixels[pack.index(image_id), index] = number
    return pixels
