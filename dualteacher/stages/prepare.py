"""Encode a dataset once: two packs, the class table, statistics and a contact sheet."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dualteacher import console, files, paths
from dualteacher.data import contact_sheet, fetch, sources
from dualteacher.data.pack import IGNORE, Pack, PackWriter, Sample, class_table, decode_mask
from dualteacher.errors import UserError
from dualteacher.settings import Settings

logger = logging.getLogger(__name__)

SHOWN = 10  # findings spelt out; the rest are counted


def run(settings: Settings, dataset: str) -> None:
    """Nothing is written unless every mask fits the class table and its image."""
    place = paths.Dataset(dataset)
    source = sources.choose(settings.datasets[dataset])
    content = source.open(fetch.read_manifest(place.manifest, source.archives()))
    classes = content.classes()
    table: dict[str, list] = {"split": [], "image_id": [], "class_index": [], "pixels": []}
    findings: list[str] = []
    with (
        PackWriter(place.train, dataset, classes) as train,
        PackWriter(place.val, dataset, classes) as val,
    ):
        for split, writer in zip(sources.SPLITS, (train, val), strict=True):
            total = len(content.ids(split))
            if total == 0:
                raise UserError(f"{dataset}: no {split} images; see datasets.{dataset} in params.yaml")
            samples = content.samples(split)
            for sample in console.progress(samples, f"prepare {split}", total, "image"):
                pixels = _inspect(sample, len(classes), findings)
                present = np.flatnonzero(pixels)
                table["split"] += [split] * len(present)
                table["image_id"] += [sample.image_id] * len(present)
                table["class_index"] += present.tolist()
                table["pixels"] += pixels[present].tolist()
                writer.add(sample)
        if findings:
            raise UserError(_report(dataset, findings))
    files.write_json(place.classes, class_table(classes))
    with files.atomic(place.stats) as temporary:
        pq.write_table(pa.table(table), temporary)
    packs = {"train": Pack(place.train), "val": Pack(place.val)}
    contact_sheet.write(place.contact_sheet, packs, pa.table(table))
    for name, pack in packs.items():
        logger.info("%s: %d images, %.1f MB", name, len(pack), pack.path.stat().st_size / 1e6)


def _inspect(sample: Sample, num_classes: int, findings: list[str]) -> np.ndarray:
    """Pixels of each mask value, (256,); what is wrong with the mask is added to `findings`."""
    if sample.mask is None:
        return np.zeros(256, np.int64)
    try:
        mask = decode_mask(sample.mask)
    except (OSError, ValueError, SyntaxError) as error:
        findings.append(f"{sample.image_id}: the mask cannot be decoded ({error})")
        return np.zeros(256, np.int64)
    if mask.shape != (sample.height, sample.width):
        expected = f"{sample.height}×{sample.width}"
        findings.append(f"{sample.image_id}: the mask is {mask.shape[0]}×{mask.shape[1]}, the image {expected}")
    pixels = np.bincount(mask.ravel(), minlength=256)
    wrong = [int(value) for value in np.flatnonzero(pixels) if num_classes <= value != IGNORE]
    if wrong:
        count = int(pixels[wrong].sum())
        findings.append(f"{sample.image_id}: {count} pixels with values {wrong}, allowed 0…{num_classes - 1}, 255")
    return pixels


def _report(dataset: str, findings: list[str]) -> str:
    for finding in findings:
        logger.error(finding)
    more = len(findings) - SHOWN
    text = "; ".join(findings[:SHOWN]) + (f"; and {more} more, see the log" if more > 0 else "")
    return f"{dataset}: {len(findings)} masks do not fit the class table, nothing was written: {text}"
