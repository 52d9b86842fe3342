"""ADE20K as published for the scene parsing challenge: one zip of JPEGs and PNG masks.

Published masks hold 0 for "other" and 1…150 for the classes; ours hold 255 and 0…149. They are re-encoded here, once,
and checked: a network trained on the published values learns next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dualteacher import settings
from dualteacher.core.labels import IGNORE
from dualteacher.data.class_table import ClassInfo, voc_color
from dualteacher.data.fetch import Archive, archives
from dualteacher.data.fetch.http import Download
from dualteacher.data.pack import Sample
from dualteacher.data.sources import Split, published

ARCHIVE = Download(
    "ADEChallengeData2016.zip",
    ("http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",),
    "219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
    "sha1",
)
SPLITS: dict[Split, tuple[str, str, int]] = {  # folder, prefix of the ids, number of images
    "train": ("training", "ADE_train_", 20210),
    "val": ("validation", "ADE_val_", 2000),
}
ENCODING = published.table({0: IGNORE} | {value: value - 1 for value in range(1, 256)})

NAMES = (
    "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, "
    "table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, "
    "armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, "
    "chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, "
    "case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, "
    "book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, "
    "hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, "
    "dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, "
    "fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, "
    "minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, "
    "screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, "
    "monitor, bulletin board, shower, radiator, glass, clock, flag"
)


class ADE20K:
    """Implements `sources.Source`."""

    def __init__(self, options: settings.ADE20K) -> None:
        self.options = options

    def classes(self) -> list[ClassInfo]:
        return [ClassInfo(name, voc_color(i + 1)) for i, name in enumerate(NAMES.split(", "))]

    def archives(self) -> list[Archive]:
        archive = published.given("archive", self.options.archive, ARCHIVE)
        return [archive, *published.list_archives("ade20k", self.options.lists)]

    def open(self, paths: Sequence[Path]) -> ADE20KContent:
        return ADE20KContent(archives.open_reader(paths[0]))


class ADE20KContent:
    """Implements `sources.Content`; UserError if images or masks are missing. The ids are the files' stems."""

    def __init__(self, reader: archives.Reader) -> None:
        self._reader = reader
        self._files: dict[Split, dict[str, tuple[str, str]]] = {}
        for split, (folder, prefix, number) in SPLITS.items():
            images = archives.find(reader, rf"(?:^|/)images/{folder}/([^/]+)\.jpg$")
            masks = archives.find(reader, rf"(?:^|/)annotations/{folder}/([^/]+)\.png$")
            expected = [f"{prefix}{i:08d}" for i in range(1, number + 1)]
            published.complete(f"images of images/{folder}", images, expected, reader.path)
            published.complete(f"masks of annotations/{folder}", masks, expected, reader.path)
            self._files[split] = {image_id: (images[image_id], masks[image_id]) for image_id in expected}

    def ids(self, split: Split) -> list[str]:
        return list(self._files[split])

    def samples(self, split: Split) -> Iterator[Sample]:
        for image_id, (image_name, mask_name) in self._files[split].items():
            image = self._reader.read(image_name)
            mask = published.relabel(self._reader.read(mask_name), ENCODING, mask_name)
            yield Sample(image_id, image, mask, *published.image_size(image, image_name))
