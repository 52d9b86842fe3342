"""PASCAL VOC 2012 with the 10,582 training images of the "augmented" list, in both protocols.

classic: VOC's own 1,464 training masks; the other training images have no mask.
blended: the others have the masks of SBD (Hariharan et al. 2011), which are coarser and do not mark borders.
VOC's archive holds all images of the list, including SBD's.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dualteacher import settings
from dualteacher.data import official_lists
from dualteacher.data.class_table import ClassInfo, voc_color
from dualteacher.data.fetch import Archive, archives
from dualteacher.data.fetch.http import Download
from dualteacher.data.formats import images
from dualteacher.data.pack import Sample
from dualteacher.data.sources import Split, published
from dualteacher.system import console
from dualteacher.system.errors import UserError

ARCHIVE = Download(
    "VOCtrainval_11-May-2012.tar",
    (
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "https://d2l-data.s3-accelerate.amazonaws.com/VOCtrainval_11-May-2012.tar",
    ),
    "6cd6e144f989b92b3379bac3b3de84fd",
    "md5",
)
SBD = Download(
    "benchmark.tgz",
    (
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
        "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    ),
    "82b4d87ceb2ed10f6038a1cba92111cb",
    "md5",
)
FINE, VALIDATION, AUGMENTED = 1464, 1449, 10582  # images in VOC's train.txt and val.txt and in the augmented list
ENCODING = published.table({})  # 255 already marks the border

NAMES = (
    "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, dining table, dog, horse, "
    "motorbike, person, potted plant, sheep, sofa, train, tv monitor"
)


class VOC:
    """Implements `sources.Source`."""

    def __init__(self, options: settings.VOC) -> None:
        self.options = options

    def classes(self) -> list[ClassInfo]:
        return [ClassInfo(name, voc_color(i)) for i, name in enumerate(NAMES.split(", "))]

    def archives(self) -> list[Archive]:
        """VOC, SBD if blended, the augmented list, and the lists of the official partitions."""
        found = [published.given("archive", self.options.archive, ARCHIVE)]
        if self.options.protocol == "blended":
            found.append(published.given("sbd", self.options.sbd, SBD))
        return found + published.list_archives("voc", self.options.lists, ["train"])

    def open(self, paths: Sequence[Path]) -> VOCContent:
        blended = self.options.protocol == "blended"
        augmented = paths[2 if blended else 1]
        listed = official_lists.read(augmented.parent, official_lists.images("voc", "train"))
        return VOCContent(archives.open_reader(paths[0]), listed, paths[1] if blended else None)


class VOCContent:
    """Implements `sources.Content`; UserError if images or masks are missing.

    augmented: ids of the training images. sbd: SBD's archive or folder; None for the classic protocol.
    """

    def __init__(self, reader: archives.Reader, augmented: Sequence[str], sbd: Path | None) -> None:
        self._reader = reader
        self._images = archives.find(reader, r"(?:^|/)JPEGImages/([^/]+)\.jpg$")
        self._masks = archives.find(reader, r"(?:^|/)SegmentationClass/([^/]+)\.png$")
        fine, val = self._listed("train"), self._listed("val")
        where = reader.path
        published.counted("images in ImageSets/Segmentation/train.txt", fine, FINE, where)
        published.counted("images in ImageSets/Segmentation/val.txt", val, VALIDATION, where)
        published.counted("training images in the augmented list", augmented, AUGMENTED, where)
        self._ids: dict[Split, list[str]] = {"train": sorted(augmented), "val": sorted(val)}
        wanted = {*augmented, *val}
        published.complete("images of JPEGImages", self._images.keys() & wanted, wanted, where)
        published.complete("masks of SegmentationClass", self._masks.keys() & {*fine, *val}, {*fine, *val}, where)
        if not set(fine) <= set(augmented) or set(val) & set(augmented):
            raise UserError(f"{where}: its lists do not match the augmented list; {published.AGAIN}")
        self._fine = set(fine)
        self._coarse = {} if sbd is None else coarse_masks(sbd, set(augmented) - self._fine)

    def _listed(self, split: str) -> list[str]:
        names = [name for name in self._reader.names if name.endswith(f"ImageSets/Segmentation/{split}.txt")]
        if not names:
            raise UserError(f"{self._reader.path}: contains no ImageSets/Segmentation/{split}.txt; {published.AGAIN}")
        names.sort(key=lambda name: "VOC2012" not in name)  # a folder may hold other years
        return official_lists.ids(self._reader.read(names[0]).decode("utf-8", errors="replace"))

    def ids(self, split: Split) -> list[str]:
        return self._ids[split]

    def samples(self, split: Split) -> Iterator[Sample]:
        for image_id in self._ids[split]:
            name = self._images[image_id]
            image = self._reader.read(name)
            mask = self._coarse.get(image_id)
            if split == "val" or image_id in self._fine:
                mask_name = self._masks[image_id]
                mask = published.relabel(self._reader.read(mask_name), ENCODING, mask_name)
            yield Sample(image_id, image, mask, *published.image_size(image, name))


def coarse_masks(sbd: Path, wanted: set[str]) -> dict[str, bytes]:
    """SBD's masks of the ids `wanted`, from .mat files to PNGs by image id; UserError if any is missing.

    Read in one pass, because a compressed tar has no random access, and kept in memory (9,118 masks, about 50 MB).
    """
    found: dict[str, bytes] = {}
    members = archives.each(sbd, re.compile(r"(?:^|/)cls/[^/]+\.mat$"))
    for name, data in console.progress(members, f"read {sbd.name}", unit="mask"):
        image_id = Path(name).stem
        if image_id in wanted:
            found[image_id] = images.png(segmentation(data, name))
    published.complete("masks of cls", found, wanted, sbd)
    return found


def segmentation(data: bytes, name: str) -> np.ndarray:
    """GTcls.Segmentation of a .mat file, uint8 (H, W), 0…20."""
    import scipy.io

    try:
        content = scipy.io.loadmat(io.BytesIO(data), variable_names=["GTcls"])
        mask = np.asarray(content["GTcls"][0, 0]["Segmentation"])
    except Exception as error:  # the parser raises anything on damaged files
        raise UserError(f"{name}: not one of SBD's .mat files ({error!r:.120}); {published.AGAIN}") from None
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise UserError(f"{name}: GTcls.Segmentation is {mask.dtype} {mask.shape}, expected uint8 (H, W)")
    return mask
