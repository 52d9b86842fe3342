"""Check a dataset before it is prepared (`check-data`): decode every image and mask once."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from dualteacher.data import contact_sheet, inspection, sources
from dualteacher.data.channels import RGB, Channels
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.fetch import manifest
from dualteacher.data.pack import Pack, PackWriter
from dualteacher.data.sources.folder import Folder
from dualteacher.data.stats import COLUMNS
from dualteacher.settings import Settings
from dualteacher.system import paths


def run(settings: Settings, dataset: str) -> bool:
    """Print a table and one line per finding; True if there is no error.

    Checks the folder itself for `source: folder`, else the downloaded archives.
    """
    options = settings.datasets[dataset]
    source = sources.choose(options)
    classes = source.classes()
    unused: list[str] = []
    if isinstance(source, Folder):
        looked = source.look()
        content: sources.Content = looked
        unused = looked.unused()
    else:
        content = source.open(manifest.read(paths.Dataset(dataset).manifest, source.archives()))
    survey = inspection.survey_of(content, classes, options)
    examples: dict[str, Examples] = {split: Examples(contact_sheet.SHOWN[split]) for split in sources.SPLITS}
    for split in reversed(sources.SPLITS):  # validation first, see Survey
        for checked in inspection.run(content, split, len(classes), f"check {split}"):
            survey.add(split, checked)
            examples[split].add(checked)
    survey.conclude()
    print(f"{dataset}: {survey.table()}")
    channels = getattr(content, "channels", RGB)
    if channels != RGB:
        print(f"channels: {channels}")
    for line in survey.lines():
        print(line)
    for line in unused:
        print(f"not used: {line}")
    if all(found.kept for found in examples.values()):
        sheet = paths.Dataset(dataset).checked_sheet
        draw(sheet, dataset, classes, channels, examples)
        print(f"contact sheet: {sheet}")
    errors = len(survey.errors())
    warnings = len(survey.findings) - errors
    print(f"{dataset}: {_number(errors, 'error')}, {_number(warnings, 'warning')}")
    return not errors


class Examples:
    """A few images with masks, each of a split's equally likely, and the split's totals."""

    def __init__(self, number: int) -> None:
        self.number, self.seen = number, 0
        self.kept: list[inspection.Checked] = []
        self.total = contact_sheet.Total(0, np.zeros(256, np.int64))
        self._random = random.Random(0)

    def add(self, checked: inspection.Checked) -> None:
        if checked.sample is None:
            return
        self.total = contact_sheet.Total(self.total.images + 1, self.total.pixels + checked.pixels)
        if checked.sample.mask is None:
            return
        self.seen += 1
        place = self._random.randrange(self.seen)
        if len(self.kept) < self.number:
            self.kept.append(checked)
        elif place < self.number:
            self.kept[place] = checked


def draw(
    path: Path, dataset: str, classes: Sequence[ClassInfo], channels: Channels, examples: Mapping[str, Examples]
) -> None:
    """Write the contact sheet of the examples."""
    rows = [
        (split, checked.sample.image_id, index, int(checked.pixels[index]))
        for split, found in examples.items()
        for checked in found.kept
        if checked.sample is not None
        for index in np.flatnonzero(checked.pixels).tolist()
    ]
    table = pa.table(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))
    with tempfile.TemporaryDirectory() as folder:
        packs = {}
        for split, found in examples.items():
            with PackWriter(Path(folder) / f"{split}.arrow", dataset, len(classes), channels) as writer:
                for checked in found.kept:
                    if checked.sample is not None:
                        writer.add(checked.sample)
            packs[split] = Pack(Path(folder) / f"{split}.arrow")
        path.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet.write(path, packs, table, classes, {split: found.total for split, found in examples.items()})


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
