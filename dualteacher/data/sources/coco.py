"""COCO 2017 as semantic segmentation: 80 object classes and background, from the instance annotations.

Masks are drawn here, pixel for pixel as pycocotools does. Where objects overlap, the smaller one wins: the annotations
do not say which is in front. Crowd regions belong to their class. A pixel of no object is background; none is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dualteacher import settings
from dualteacher.data.class_table import ClassInfo, voc_color
from dualteacher.data.fetch import Archive, archives
from dualteacher.data.fetch.http import Download
from dualteacher.data.formats import images
from dualteacher.data.formats.annotations import coco_masks
from dualteacher.data.formats.annotations.shapes import Wrong
from dualteacher.data.pack import Sample
from dualteacher.data.sources import Split, published
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError


def _archive(path: str, md5: str) -> Download:
    hosts = ("http://images.cocodataset.org", "https://s3.amazonaws.com/images.cocodataset.org")
    return Download(PurePosixPath(path).name, tuple(f"{host}/{path}" for host in hosts), md5, "md5")


# The publishers give no hashes; these are the ones that several public code bases compare with.
TRAIN = _archive("zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2")
VAL = _archive("zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80")
ANNOTATIONS = _archive("annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c")

NUMBERS: dict[Split, int] = {"train": 118287, "val": 5000}
LARGEST = 1 << 30  # bytes of an annotation file; the training set's has 0.45 GB

NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush"
)


class COCO:
    """Implements `sources.Source`."""

    def __init__(self, options: settings.COCO) -> None:
        self.options = options

    def classes(self) -> list[ClassInfo]:
        names = ["background", *NAMES.split(", ")]
        return [ClassInfo(name, voc_color(i)) for i, name in enumerate(names)]

    def archives(self) -> list[Archive]:
        options = self.options
        found = [
            published.given("train", options.train, TRAIN),
            published.given("val", options.val, VAL),
            published.given("annotations", options.annotations, ANNOTATIONS),
        ]
        return found + published.list_archives("coco", options.lists)

    def open(self, paths: Sequence[Path]) -> COCOContent:
        readers = {path: archives.open_reader(path) for path in dict.fromkeys(paths[:3])}  # may all be one folder
        train, val, annotations = (readers[path] for path in paths[:3])
        return COCOContent({"train": train, "val": val}, annotations)


@dataclass(frozen=True)
class Instances:
    """An annotation file: (H, W) and objects (area, class index, segmentation) by image id."""

    sizes: dict[str, tuple[int, int]]
    objects: dict[str, list[tuple[float, int, Any]]]


class COCOContent:
    """Implements `sources.Content`; UserError if images are missing. The ids are the files' stems."""

    def __init__(self, readers: dict[Split, archives.Reader], annotations: archives.Reader) -> None:
        self._readers = readers
        self._instances: dict[Split, Instances] = {}
        self._files: dict[Split, dict[str, str]] = {}
        for split, number in NUMBERS.items():
            reader, file = readers[split], f"instances_{split}2017.json"
            listed = read_instances(annotations, file)
            published.counted(f"images listed in {file}", listed.sizes, number, annotations.path)
            found = archives.find(reader, rf"(?:^|/){split}2017/([^/]+)\.jpg$")
            published.complete(f"images of {split}2017", found, listed.sizes, reader.path)
            self._instances[split] = listed
            self._files[split] = dict(sorted(found.items()))

    def ids(self, split: Split) -> list[str]:
        return list(self._files[split])

    def samples(self, split: Split) -> Iterator[Sample]:
        listed = self._instances[split]
        for image_id, name in self._files[split].items():
            image = self._readers[split].read(name)
            try:
                mask = coco_masks.class_map(listed.objects[image_id], listed.sizes[image_id])
            except Wrong as error:
                raise UserError(f"{name}: damaged annotation ({error}); {published.AGAIN}") from None
            yield Sample(image_id, image, images.png(mask), *published.image_size(image, name))


def read_instances(reader: archives.Reader, file: str) -> Instances:
    """Read an annotation file; UserError if it is missing, damaged or of other classes."""
    names = [name for name in reader.names if PurePosixPath(name).name == file]
    if not names:
        raise UserError(f"{reader.path}: contains no {file}; {published.AGAIN}")
    logger.info("reading %s", file)
    try:
        content = json.loads(reader.read(names[0], LARGEST), object_hook=_compact)
        classes = sorted((entry["id"], entry["name"]) for entry in content["categories"])
        index = {category: i + 1 for i, (category, _) in enumerate(classes)}
        stems = {entry["id"]: PurePosixPath(entry["file_name"]).stem for entry in content["images"]}
        sizes = {stems[entry["id"]]: (int(entry["height"]), int(entry["width"])) for entry in content["images"]}
        objects: dict[str, list[tuple[float, int, Any]]] = {stem: [] for stem in sizes}
        for image, category, area, segmentation in content["annotations"]:
            objects[stems[image]].append((float(area), index[category], segmentation))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{reader.path}: {names[0]}: not COCO's instance annotations ({error!r:.120}); {published.AGAIN}"
        ) from None
    if [name for _, name in classes] != NAMES.split(", "):
        raise UserError(f"{reader.path}: {names[0]}: not the 80 classes of COCO; for other classes use source: folder")
    return Instances(sizes, objects)


def _compact(entry: dict[str, Any]) -> Any:
    """Shrink an annotation while the file is being read: lists of numbers would take several gigabytes."""
    if "segmentation" not in entry:
        return entry
    shape = entry["segmentation"]
    if isinstance(shape, list):
        shape = [np.array(corners, np.float64) for corners in shape]
    return entry["image_id"], entry["category_id"], entry["area"], shape
