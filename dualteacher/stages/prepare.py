"""Convert a dataset to packs; write statistics and findings."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa

from dualteacher.data import inspection, sources
from dualteacher.data.channels import RGB
from dualteacher.data.fetch import manifest
from dualteacher.data.pack import Pack, PackWriter
from dualteacher.data.sources.folder import FolderContent
from dualteacher.data.stats import COLUMNS
from dualteacher.settings import Settings
from dualteacher.system import files, paths, sealed
from dualteacher.system.errors import UserError

logger = logging.getLogger(__name__)

SHOWN = 10  # findings listed in the error message; the log has all


def run(settings: Settings, dataset: str) -> None:
    """Write nothing if an image or mask fails a check, unless `on_error: skip` drops such images."""
    place, wanted = paths.Dataset(dataset), settings.datasets[dataset]
    source = sources.choose(wanted)
    manifest.borrow(place.raw)
    content = source.open(manifest.read(place.manifest, source.archives()))
    for split in sources.SPLITS:
        if not content.ids(split):
            raise UserError(f"{dataset}: no {split} images; see datasets.{dataset} in params.yaml")
    classes = source.classes()
    survey = inspection.survey_of(content, classes, wanted)
    skip = getattr(wanted, "on_error", "stop") == "skip"
    skipped: list[str] = []
    rows: dict[str, list[tuple[str, str, int, int]]] = {split: [] for split in sources.SPLITS}
    channels = getattr(content, "channels", RGB)
    if channels != RGB:
        logger.info("channels: %s", channels)
    written = (dataset, len(classes), channels)
    with PackWriter(place.train, *written) as train, PackWriter(place.val, *written) as val:
        writers: list[tuple[sources.Split, PackWriter]] = [("val", val), ("train", train)]
        for split, writer in writers:  # validation first, see Survey
            for checked in inspection.run(content, split, len(classes), f"prepare {split}"):
                if survey.add(split, checked) or checked.sample is None:
                    skipped.append(checked.where)
                    continue
                for index in np.flatnonzero(checked.pixels).tolist():
                    rows[split].append((split, checked.sample.image_id, index, int(checked.pixels[index])))
                writer.add(checked.sample)
        stop_on = survey.conclude()
        if not skip:
            stop_on = survey.errors()
        errors = [finding for finding in stop_on if finding.level == "error"]
        for line in survey.lines():
            (logger.error if line.startswith("error") else logger.warning)(line)
        if errors:
            raise UserError(_report(dataset, errors))
    files.write_json(place.findings, _record(survey, skipped))
    columns = zip(*(row for split in sources.SPLITS for row in rows[split]), strict=True)
    sealed.write_table(place.stats, pa.table(dict(zip(COLUMNS, map(list, columns), strict=True))))
    if isinstance(content, FolderContent):
        for line in content.unused():
            logger.info("not used: %s", line)
    if skipped:
        logger.warning("%d images skipped, see %s", len(skipped), place.findings)
    for split, path in (("train", place.train), ("val", place.val)):
        logger.info("%s: %d images, %.1f MB", split, len(Pack(path)), path.stat().st_size / 1e6)


def _record(survey: inspection.Survey, skipped: list[str]) -> dict[str, Any]:
    """Content of findings.json: skipped images and all findings; classes by index, as their names may change."""
    levels: dict[str, list[dict[str, str]]] = {"error": [], "warning": []}
    for finding in survey.findings:
        levels[finding.level].append({"where": finding.stable, "text": finding.text})
    return {"skipped": skipped, "errors": levels["error"], "warnings": levels["warning"]}


def _report(dataset: str, errors: list[inspection.Finding]) -> str:
    more = len(errors) - SHOWN
    text = "; ".join(map(str, errors[:SHOWN])) + (f"; and {more} more, see the log" if more > 0 else "")
    problems = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    return f"{dataset}: {problems} in the data, nothing written: {text}"
