"""Draw a partition with one seed; write the list and where it comes from."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dualteacher import files, paths
from dualteacher.data import partition as rules
from dualteacher.data.pack import IGNORE, Pack
from dualteacher.errors import UserError
from dualteacher.settings import Settings

logger = logging.getLogger(__name__)


def run(settings: Settings, dataset: str, partition: str, seed: int) -> None:
    """Partitions of one seed are nested, whatever their names and sizes."""
    place = paths.Dataset(dataset)
    split = paths.Split(dataset, partition, seed)
    wanted = settings.partition[partition]
    pack = Pack(place.train)
    images = rules.Images(
        ids=pack.ids,
        blocks=pack.blocks,
        pixels=_pixels(place, pack),
        has_mask=np.array([pack.has_mask(i) for i in range(len(pack))], bool),
    )
    drawn = rules.draw(images, seed, wanted.fraction, wanted.count)
    chosen = [pack.index(image_id) for image_id in drawn.labelled]
    pixels = images.pixels[chosen].sum(0)
    names = [info.name for info in pack.classes]
    asked = {"fraction": wanted.fraction} if wanted.count is None else {"count": wanted.count}
    provenance: dict[str, Any] = {
        "kind": "generated",
        "dataset": dataset,
        "partition": partition,
        "seed": seed,
        "unit": images.unit,
        **asked,
        "labelled": len(chosen),
        "unlabelled": len(pack) - len(chosen),
        "cut_block": drawn.cut_block,  # partly labelled, so that the count is exact
        "list_sha256": rules.list_hash(drawn.labelled),
        "pack_sha256": files.sha256(place.train),
        "classes_missing": [name for name, number in zip(names, pixels, strict=True) if number == 0],
        "labelled_pixels": {name: int(number) for name, number in zip(names, pixels, strict=True)},
    }
    rules.write(split.table, pack.ids, drawn.labelled)
    files.write_json(split.provenance, provenance)
    logger.info("%s: %d labelled, %d unlabelled", split.table, len(chosen), len(pack) - len(chosen))
    if provenance["classes_missing"]:
        logger.warning("no labelled image shows: %s", ", ".join(provenance["classes_missing"]))


def _pixels(place: paths.Dataset, pack: Pack) -> np.ndarray:
    """Pixels by training image and class, int64 (images, classes)."""
    try:
        table = pq.read_table(place.stats, filters=[("split", "=", "train")]).to_pydict()
    except FileNotFoundError:
        raise UserError(f"{place.stats}: no such file; run the prepare stage") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{place.stats}: cannot be read ({error}); run the prepare stage again") from None
    pixels = np.zeros((len(pack), len(pack.classes)), np.int64)
    columns = (table[name] for name in ("image_id", "class_index", "pixels"))
    for image_id, index, number in zip(*columns, strict=True):
        if index != IGNORE:
            pixels[pack.index(image_id), index] = number
    return pixels
