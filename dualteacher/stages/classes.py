"""Write a dataset's class table and its contact sheet: all of its files that show names and colours of classes."""

from __future__ import annotations

from dualteacher.data import class_table, contact_sheet, sources, stats
from dualteacher.data.pack import Pack
from dualteacher.settings import Settings
from dualteacher.system import files, paths
from dualteacher.system.errors import UserError


def run(settings: Settings, dataset: str) -> None:
    """Needs the packs, but no archive; UserError if they have another number of classes."""
    place = paths.Dataset(dataset)
    classes = sources.choose(settings.datasets[dataset]).classes()
    packs = {"train": Pack(place.train), "val": Pack(place.val)}
    for pack in packs.values():
        if pack.num_classes != len(classes):
            raise UserError(
                f"{pack.path}: has {pack.num_classes} classes, params.yaml {len(classes)}; run the prepare stage again"
            )
    files.write_json(place.classes, class_table.as_json(classes))
    contact_sheet.write(place.contact_sheet, packs, stats.read(place), classes)
